// The server: what it is asked, and the token that every request carries.

export const token = new URLSearchParams(location.search).get("token") || "";

export async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { "X-Token": token } });
  const body = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  return { ok: answer.ok, status: answer.status, body };
}

export function pictureOf(id) {
  return `api/picture/${id}?token=${encodeURIComponent(token)}`;
}
