// The fixed data of every panel that has some: panels/NAME/story.ts.
import type { PanelData } from "../data/types";
import { story as nextToken } from "../panels/next-token/story";

export const STORIES: Record<string, PanelData> = {
  "next-token": nextToken,
};
