// The running server.
import { Forgotten, type Source, Superseded } from "./source";
import type { Options, SideName } from "./types";

export function live(first: string): Source {
  let token = first;

  async function send(path: string, init: RequestInit): Promise<Response> {
    try {
      return await fetch(path, { ...init, headers: { "content-type": "application/json", "x-fathom-token": token } });
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") throw error;
      throw new Error("the server does not answer; is fathom serve still running?");
    }
  }

  /** A server that was started again has another token: it stands in its page. */
  async function renewed(): Promise<boolean> {
    const page = new DOMParser().parseFromString(await (await send("/", {})).text(), "text/html");
    const now = JSON.parse(page.getElementById("fathom-document")?.textContent ?? "{}").token;
    const changed = typeof now === "string" && now !== token;
    if (changed) token = now;
    return changed;
  }

  async function answer(path: string, init: RequestInit = {}): Promise<Response> {
    let response = await send(path, init);
    if ((response.status === 401 || response.status === 403) && (await renewed())) response = await send(path, init);
    if (response.status === 410) throw new Forgotten();
    if (!response.ok) throw new Error(await reason(response));
    return response;
  }

  const post = (body: unknown, signal?: AbortSignal): RequestInit =>
    ({ method: "POST", body: JSON.stringify(body), ...(signal ? { signal } : {}) });
  const lanes = new Map<string, Lane>();

  return {
    live: true,
    models: async () => (await (await answer("/api/models")).json()).models,
    run: async (what) => (await answer("/api/pass", post(what))).json(),
    panel(pass, side, id, options) {
      const lane = lanes.get(`${side}/${id}`) ?? new Lane();
      lanes.set(`${side}/${id}`, lane);
      return lane.last(async () => (await answer(address(pass, side, id, options))).arrayBuffer());
    },
    ask: async (path, body) => (await answer(path, body === undefined ? {} : post(body))).json(),
    async stream(path, body, each, signal) {
      const reader = (await answer(path, post(body, signal))).body?.getReader();
      const decoder = new TextDecoder();
      for (let rest = "", part = await reader?.read(); part && !part.done; part = await reader?.read()) {
        const lines = (rest + decoder.decode(part.value, { stream: true })).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) if (line) each(JSON.parse(line));
      }
    },
  };
}

function address(pass: string, side: SideName, id: string, options: Options): string {
  const words = new URLSearchParams({ pass, side });
  for (const [name, value] of Object.entries(options)) if (value !== null) words.set(name, String(value));
  return `/api/panel/${encodeURIComponent(id)}?${words}`;
}

async function reason(response: Response): Promise<string> {
  const said = await response.json().catch(() => null);
  return typeof said?.error === "string" ? said.error : `the server answered ${response.status} ${response.statusText}`;
}

/** One request at a time; of those that wait, only the last: a slider asks faster than a model answers. */
class Lane {
  private busy = false;
  private waiting: { go: () => void; drop: () => void } | null = null;

  async last<T>(make: () => Promise<T>): Promise<T> {
    if (this.busy) {
      this.waiting?.drop();
      await new Promise<void>((go, reject) => (this.waiting = { go, drop: () => reject(new Superseded()) }));
    }
    this.busy = true;
    try {
      return await make();
    } finally {
      const next = this.waiting;
      this.waiting = null;
      if (next) next.go();
      else this.busy = false;
    }
  }
}
