// What the elements of every file become calls of: build.mjs puts it before each. Not `h`, which files call other things.
export { createElement, Fragment } from "preact";
