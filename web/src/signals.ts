// Values that a page is drawn from: who reads one while drawing or in an effect is drawn or run again when it changes.
import { type Component, options, type VNode } from "preact";

type Reader = { again: () => void; read: Set<Signal<unknown>> };

let reader: Reader | null = null;
let batches = 0;
const waiting = new Set<Reader>();

export class Signal<T> {
  readonly readers = new Set<Reader>();

  constructor(private held: T) {}

  get value(): T {
    if (reader) {
      this.readers.add(reader);
      reader.read.add(this as Signal<unknown>);
    }
    return this.held;
  }

  set value(next: T) {
    if (next === this.held) return;
    this.held = next;
    batch(() => this.readers.forEach((one) => waiting.add(one)));
  }

  /** The value, without being told of the next. */
  peek(): T {
    return this.held;
  }
}

export function signal<T>(first: T): Signal<T> {
  return new Signal(first);
}

/** What follows from others; found anew whenever it is read. */
export function computed<T>(find: () => T): { readonly value: T } {
  return { get value() { return find(); } };
}

/** Several changes at once: who reads them is told once, when all are made. */
export function batch(change: () => void): void {
  batches++;
  try {
    change();
  } finally {
    if (!--batches)
      for (const one of waiting) {
        waiting.delete(one);
        one.again();
      }
  }
}

/** Runs at once, and again whenever something that it read last time has changed. */
export function effect(run: () => void): void {
  const own: Reader = {
    read: new Set(),
    again() {
      forget(own);
      const outer = reader;
      reader = own;
      try {
        run();
      } finally {
        reader = outer;
      }
    },
  };
  own.again();
}

function forget(one: Reader): void {
  for (const each of one.read) each.readers.delete(one);
  one.read.clear();
}

// Preact calls these around the drawing of a component. Their short names and that of a node's component are those of its
// own builds, which its hooks and developer tools rely on too.
type Hooks = typeof options & { __r?: (node: VNode) => void };
const hooks = options as Hooks;
const drawers = new WeakMap<Component, Reader>();
const componentOf = (node: VNode): Component => (node as VNode & { __c: Component }).__c;
const { __r: draws, diffed, unmount } = hooks;

hooks.__r = (node) => {
  draws?.(node);
  const component = componentOf(node);
  reader = drawers.get(component) ?? { read: new Set(), again: () => component.setState({}) };
  drawers.set(component, reader);
  forget(reader);
};
hooks.diffed = (node) => {
  reader = null;
  diffed?.(node);
};
hooks.unmount = (node) => {
  const known = drawers.get(componentOf(node));
  if (known) forget(known);
  unmount?.(node);
};
