// The instruction sets that this machine can run, best first, and the active one.
#pragma once

#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kernels.h"

namespace mcscore {

#if defined(__x86_64__)
inline bool has_f16c() {  // older compilers do not accept "f16c" in __builtin_cpu_supports
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

inline const std::vector<const Kernels*>& available() {
    static const std::vector<const Kernels*> list = [] {
        std::vector<const Kernels*> found;
#if defined(__x86_64__)
        __builtin_cpu_init();  // the checks below include whether the operating system saves the wide registers
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
        if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl"))
            found.push_back(&avx512::kernels);
        if (avx2) found.push_back(&avx2::kernels);
#endif
        found.push_back(&baseline::kernels);
        return found;
    }();
    return list;
}

inline std::atomic<const Kernels*>& active() {
    static std::atomic<const Kernels*> kernels{available().front()};
    return kernels;
}

}  // namespace mcscore
