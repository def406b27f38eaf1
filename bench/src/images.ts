/**
 * Images: what the guest's RAM holds. An image joins the harness by a line here.
 */
import { mixedImage, mixedShares, randomImage, textImage, zeroImage } from "@multifd/test/peers";

const SEED = 1;

export type Image = {
  readonly name: string;
  /** How much of it takes memory: zero pages are holes, until somebody maps the file and reads them. */
  readonly stored: number;
  readonly write: (path: string, bytes: number) => void;
};

export const images: readonly Image[] = [
  { name: "mixed", stored: 1 - mixedShares.zero / 100, write: (path, bytes) => mixedImage(path, bytes, SEED) },
  { name: "zero", stored: 0, write: zeroImage },
  { name: "random", stored: 1, write: (path, bytes) => randomImage(path, bytes, SEED) },
  { name: "text", stored: 1, write: (path, bytes) => textImage(path, bytes, SEED) },
];

export function findImage(name: string): Image {
  const found = images.find((image) => image.name === name);
  if (found) return found;
  throw new Error(`there is no image called "${name}"`);
}
