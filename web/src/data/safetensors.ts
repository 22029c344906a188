// A safetensors file: 8 bytes of length, a JSON header, raw little-endian numbers.
import type { Numbers } from "./types";

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

export interface Tensors {
  metadata: Record<string, string>;
  tensors: Record<string, { shape: number[]; values: Numbers }>;
}

export function readTensors(bytes: ArrayBuffer): Tensors {
  const start = 8 + Number(new DataView(bytes).getBigUint64(0, true));
  const header: Record<string, Entry> = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, start - 8)));
  const { __metadata__: metadata = {}, ...entries } = header as Record<string, Entry> & { __metadata__?: Record<string, string> };
  const tensors: Tensors["tensors"] = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(entries))
    // slice: a typed array may only begin at a multiple of its item's size
    tensors[name] = { shape, values: numbers(dtype, bytes.slice(start + data_offsets[0], start + data_offsets[1])) };
  return { metadata: metadata as Record<string, string>, tensors };
}

function numbers(dtype: string, data: ArrayBuffer): Numbers {
  switch (dtype) {
    case "F32": return new Float32Array(data);
    case "U8": return new Uint8Array(data);
    case "I32": return new Int32Array(data);
    case "I64": return Float64Array.from(new BigInt64Array(data), Number);
    default: throw new Error(`a tensor of type ${dtype}; expected F32, U8, I32 or I64`);
  }
}
