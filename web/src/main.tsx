// The page: its data is JSON in #fathom-document, and base64 in inert elements beside it.
import { render } from "preact";
import { start } from "./app";
import { Frame } from "./frame/Frame";
import "./theme.css";

const text = (id: string): string | null => document.getElementById(id)?.textContent ?? null;
const root = document.getElementById("fathom");
if (root) {
  void start(JSON.parse(text("fathom-document") ?? "{}"), text);
  render(<Frame />, root);
}
