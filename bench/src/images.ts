/**
 * Images: what the guest's RAM holds. An image joins the harness by a line here.
 */
import { mixedImage, randomImage, textImage, zeroImage } from "@multifd/test/peers";

const SEED = 1;

export type Image = { readonly name: string; readonly write: (path: string, bytes: number) => void };

export const images: readonly Image[] = [
  { name: "mixed", write: (path, bytes) => mixedImage(path, bytes, SEED) },
  { name: "zero", write: zeroImage },
  { name: "random", write: (path, bytes) => randomImage(path, bytes, SEED) },
  { name: "text", write: (path, bytes) => textImage(path, bytes, SEED) },
];

export function findImage(name: string): Image {
  const found = images.find((image) => image.name === name);
  if (found) return found;
  throw new Error(`there is no image called "${name}"`);
}
