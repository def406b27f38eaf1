/**
 * Browser: pages as a reader's Chromium shows them, and what it complains of.
 *
 * The distribution's Chromium, headless; `test/peers/setup.sh` installs it. Owns the
 * browser's process, which ends with `close`, or at the latest with this one.
 */
import { existsSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";

const PROGRAMS = ["/usr/bin/chromium-headless-shell", "/usr/bin/chromium"];

export type PageView = { readonly width: number; readonly scheme: "light" | "dark" };

export type ShownPage = {
  readonly page: Page;
  /** What the page wrote to its console, threw, or failed to fetch. */
  readonly complaints: readonly string[];
};

export class HeadlessBrowser {
  readonly #browser: Browser;

  private constructor(browser: Browser) {
    this.#browser = browser;
  }

  /** @throws {Error} if Chromium is not installed. */
  static async start(): Promise<HeadlessBrowser> {
    const executablePath = PROGRAMS.find((path) => existsSync(path));
    if (executablePath === undefined) {
      throw new Error(`peer Chromium is not installed (${PROGRAMS.join(" or ")}); run: sh test/peers/setup.sh`);
    }
    // Only pages of our own are shown, and root may not have the sandbox.
    return new HeadlessBrowser(await chromium.launch({ executablePath, args: ["--no-sandbox"] }));
  }

  /** Opens a file. */
  async show(path: string, { width, scheme }: PageView): Promise<ShownPage> {
    const page = await this.#browser.newPage({ viewport: { width, height: 900 }, colorScheme: scheme });
    const complaints: string[] = [];
    page.on("console", (message) => complaints.push(`${message.type()}: ${message.text()}`));
    page.on("pageerror", (error) => complaints.push(error.message));
    page.on("requestfailed", (request) => complaints.push(`not fetched: ${request.url()}`));
    await page.goto(pathToFileURL(path).href);
    return { page, complaints };
  }

  async close(): Promise<void> {
    await this.#browser.close();
  }
}
