/** Answer values: what another process's JSON has to be before it sizes or addresses anything. */

export function isWhole(value: unknown, min: number, max: number): value is number {
  return Number.isInteger(value) && (value as number) >= min && (value as number) <= max;
}
