"""Long campaigns of faults against the whole command line, by chance and by seed; ``make soak`` runs them.

Each module that is named in ``CAMPAIGNS`` has one kind of fault and one function ``attack(project, rng)``, which does
harm once and returns what came of it. A wrong answer with exit code 0, litter, a process that stays, or a raw traceback
is a finding. A case is a function of (seed, campaign, number), so that each finding can be done again.
"""
