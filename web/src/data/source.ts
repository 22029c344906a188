// Where panels come from: a running server, or the page's own file. One interface, two implementations.
import type { ModelEntry, Options, SideName, Sides } from "./types";

export interface Source {
  live: boolean;
  models(): Promise<ModelEntry[]>;
  /** Runs the prompt; the sides that are shown, and what the server calls the pass. */
  run(what: { model: string; beside: string | null; prompt: string; seed: number }): Promise<{ pass: string; sides: Sides }>;
  panel(pass: string, side: SideName, id: string, options: Options): Promise<ArrayBuffer>;
  /** Any other route of the server, as JSON. */
  ask<T>(path: string, body?: unknown): Promise<T>;
  /** A POST whose answer is one JSON object a line, given as they come; aborted by the signal. */
  stream(path: string, body: unknown, each: (row: unknown) => void, signal: AbortSignal): Promise<void>;
}

/** The server no longer has the pass. */
export class Forgotten extends Error {}

/** A newer request for the same panel took the place of this one. */
export class Superseded extends Error {}
