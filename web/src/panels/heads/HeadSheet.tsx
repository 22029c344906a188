// All heads on one canvas.
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { nextPlace, pixels, placeAt, type Sheet, signedPixels } from "../../arithmetic/heads";
import type { Series } from "../../data/types";
import { point } from "../../state";
import { dark } from "../../theme";

export interface HeadSheetProps {
  sheet: Sheet;
  /** Bytes, (views, layers, heads, n, n). */
  thumbs: Series;
  view: number;
  log: boolean;
  signed: boolean;
  /** Query heads to a KV head; framed together where they stand side by side. */
  group: number;
  byLayer: boolean;
  /** What stands under a thumbnail. */
  caption: (layer: number, head: number) => string;
  picked: { layer: number; head: number } | null;
  onPick: (layer: number, head: number) => void;
  onHover: (at: { layer: number; head: number } | null) => void;
}

export function HeadSheet(props: HeadSheetProps) {
  const { sheet, thumbs, view, log, signed, picked } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const [cursor, setCursor] = useState(-1);
  const isDark = dark.value;
  const atlas = useMemo(() => drawn(thumbs, view, log, signed, isDark), [thumbs, view, log, signed, isDark]);
  useLayoutEffect(() => {
    if (canvas.current) paint(canvas.current, props, atlas, isDark);
  }, [atlas, sheet, props.caption, props.group]);

  const aim = (at: number): void => {
    setCursor(at);
    const place = sheet.places[at];
    if (place) point(thumbs, [view, place.layer, place.head, 0, 0]);
    props.onHover(place ?? null);
  };
  const pick = (at: number): void => {
    const place = sheet.places[at];
    if (place) props.onPick(place.layer, place.head);
  };
  const under = (event: PointerEvent | MouseEvent): number => {
    const box = canvas.current?.getBoundingClientRect();
    return box ? placeAt(sheet, event.clientX - box.left, event.clientY - box.top) : -1;
  };
  const onKey = (event: KeyboardEvent): void => {
    const next = nextPlace(sheet, cursor, event.key);
    if (next >= 0) aim(next);
    else if (event.key === "Enter" || event.key === " ") pick(cursor);
    else return;
    event.preventDefault();
  };
  const chosen = picked ? sheet.places.findIndex(({ layer, head }) => layer === picked.layer && head === picked.head) : -1;
  return (
    <div class="head-sheet" data-kind={thumbs.kind} data-source={thumbs.source} style={{ width: `${sheet.width}px` }}>
      <canvas
        ref={canvas} tabIndex={0} role="application" aria-roledescription="grid of heads" data-arrows data-heads={sheet.places.length}
        aria-label={`Attention patterns of ${sheet.places.length} heads; arrows move, Enter opens one`}
        onPointerMove={(event) => aim(under(event))} onPointerLeave={() => aim(-1)} onBlur={() => aim(-1)}
        onClick={(event) => pick(under(event))} onKeyDown={onKey}
      />
      <Frame sheet={sheet} at={chosen} name="picked" />
      <Frame sheet={sheet} at={cursor} name="cursor" />
    </div>
  );
}

function Frame({ sheet, at, name }: { sheet: Sheet; at: number; name: string }) {
  const place = sheet.places[at];
  if (!place) return null;
  return <div class={`mark ${name}`} style={{ left: `${place.left}px`, top: `${place.top}px`, width: `${sheet.side}px`, height: `${sheet.side}px` }} />;
}

/** All thumbnails at one pixel a cell, beneath each other: one image, made once. */
function drawn(thumbs: Series, view: number, log: boolean, signed: boolean, isDark: boolean): Atlas {
  const began = performance.now();
  const [, layers = 0, heads = 0, high = 0, wide = 0] = thumbs.shape;
  const made = document.createElement("canvas");
  [made.width, made.height] = [Math.max(1, heads * wide), Math.max(1, layers * high)];
  const image = new ImageData(made.width, made.height);
  const into = new Uint32Array(image.data.buffer);
  const size = layers * heads * high * wide;
  const colours = signed ? signedPixels(thumbs.values, view * size, size, isDark) : pixels(log, isDark);
  for (let head = 0, from = 0; head < layers * heads; head++) {
    const start = Math.floor(head / heads) * high * made.width + (head % heads) * wide;
    for (let r = 0; r < high; r++)
      for (let c = 0; c < wide; c++, from++) {
        const byte = thumbs.values[view * size + from] ?? 0;
        if (byte !== 0 || c <= r) into[start + r * made.width + c] = (signed ? colours[from] : colours[byte]) ?? 0;
      }
  }
  made.getContext("2d")?.putImageData(image, 0, 0);
  return { image: made, ms: performance.now() - began };
}

interface Atlas {
  image: HTMLCanvasElement;
  /** How long it took to make. */
  ms: number;
}

function paint(canvas: HTMLCanvasElement, { sheet, thumbs, group, byLayer, caption }: HeadSheetProps, atlas: Atlas, isDark: boolean): void {
  const began = performance.now();
  const ratio = devicePixelRatio || 1;
  [canvas.width, canvas.height] = [Math.max(1, Math.round(sheet.width * ratio)), Math.max(1, Math.round(sheet.height * ratio))];
  [canvas.style.width, canvas.style.height] = [`${sheet.width}px`, `${sheet.height}px`];
  const pen = canvas.getContext("2d");
  if (!pen) return;
  const [, , , high = 0, wide = 0] = thumbs.shape;
  pen.scale(ratio, ratio);
  const style = getComputedStyle(canvas);
  pen.imageSmoothingEnabled = sheet.side < wide;
  pen.fillStyle = isDark ? "#242c34" : "#e7ebee";
  for (const { layer, head, left, top } of sheet.places) {
    pen.fillRect(left, top, sheet.side, sheet.side);
    pen.drawImage(atlas.image, head * wide, layer * high, wide, high, left, top, sheet.side, sheet.side);
  }
  pen.fillStyle = style.color;
  pen.font = `11px ${style.fontFamily}`;
  if (byLayer) numbers(pen, sheet);
  else if (sheet.caption) for (const { layer, head, left, top } of sheet.places) pen.fillText(caption(layer, head), left, top + sheet.side + 15, sheet.side);
  if (byLayer && group > 1) frames(pen, sheet, group, style.getPropertyValue("--key"));
  canvas.dataset.ms = (atlas.ms + performance.now() - began).toFixed(1);
}

function numbers(pen: CanvasRenderingContext2D, { places, side }: Sheet): void {
  const every = Math.max(1, Math.ceil(16 / side));
  for (const { layer, head, left, top } of places) {
    if (head === 0 && layer % every === 0) pen.fillText(String(layer), 2, top + side / 2 + 4);
    if (layer === 0 && head % every === 0) pen.fillText(String(head), left + side / 2 - 4, 10);
  }
}

/** A frame around the heads that share keys and values. */
function frames(pen: CanvasRenderingContext2D, { places, side }: Sheet, group: number, colour: string): void {
  pen.strokeStyle = colour;
  pen.globalAlpha = 0.75;
  pen.lineWidth = side > 30 ? 1.5 : 1;
  for (const { head, left, top } of places) {
    if (head % group) continue;
    const last = places.find((one) => one.top === top && one.head === head + group - 1);
    if (!last) continue;
    pen.beginPath();
    pen.roundRect(left - 3, top - 3, last.left - left + side + 6, side + 6, side > 30 ? 5 : 2);
    pen.stroke();
  }
}
