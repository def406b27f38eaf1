/** What a JSON text can say. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
