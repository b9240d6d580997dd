// Calls of the control API. Addresses are relative to /-/dashboard/, so that a proxy may serve the gateway
// below a path of its own.

const PATIENCE = 10_000;

export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Unreachable extends Error {}

export async function get(path, signal) {
  const limit = AbortSignal.timeout(PATIENCE);
  let answer;
  try {
    answer = await fetch(`../${path}`, {
      headers: { accept: "application/json" },
      cache: "no-store",
      credentials: "same-origin",
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable("The gateway does not answer.");
  }
  if (answer.ok) return answer.json();
  throw await refusal(answer);
}

export async function refusal(answer) {
  const body = await answer.json().catch(() => null);
  const error = body?.error ?? { code: "unknown", message: `The gateway answered with status ${answer.status}.` };
  return new Refused(answer.status, error.code, error.message);
}

export async function logout() {
  await fetch("logout", { method: "POST", credentials: "same-origin" });
}
