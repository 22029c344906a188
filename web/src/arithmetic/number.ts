// Numbers as text.

/** About four figures: 0.4131, 12.50, 1234, 3.2e-8. Zero is "0". */
export function readable(x: number): string {
  if (Number.isNaN(x)) return "NaN";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  if (x === 0) return "0";
  const size = Math.abs(x);
  const text = Number.isInteger(x) && size < 1e6 ? String(size)
    : size >= 1e6 || size < 1e-3 ? power(size)
    : size >= 1000 ? size.toFixed(0) : size.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4);
  return x < 0 ? `−${text}` : text;
}

/** A round number of an axis, without the zeros that say nothing. */
export function round(x: number): string {
  const size = Math.abs(x);
  return x !== 0 && (size >= 1e6 || size < 1e-4) ? readable(x).replace(".0e", "e") : `${x < 0 ? "−" : ""}${Number(size.toPrecision(6))}`;
}

/** 3.2e-8 as it is written in Python too. */
function power(size: number): string {
  return size.toExponential(1).replace("e+", "e");
}

export function signed(x: number): string {
  return x > 0 ? `+${readable(x)}` : readable(x);
}

export function percent(p: number): string {
  if (p === 0 || p === 1) return `${p * 100}%`;
  const x = p * 100;
  return x < 0.01 ? "<0.01%" : `${x.toFixed(x >= 10 ? 1 : 2)}%`;
}

/** 1,234,567 as 1.23M. */
export function counted(n: number): string {
  for (const [size, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]] as const)
    if (n >= size) return `${three(n / size)}${unit}`;
  return String(n);
}

export function bytes(n: number): string {
  for (const [size, unit] of [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]] as const)
    if (n >= size) return `${three(n / size)} ${unit}`;
  return `${n} B`;
}

function three(x: number): string {
  return x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2);
}

/** 12345678 as 12,345,678; nothing of no number. */
export function grouped(n: number | null | undefined): string {
  return String(n ?? "").replace(/\B(?=(\d{3})+$)/g, ",");
}
