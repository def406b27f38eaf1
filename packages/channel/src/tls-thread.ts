/**
 * Thread entry of the TLS pump: takes orders, carries connections, ends with the last of them.
 *
 * It stands here and not among the workers, for a channel must not know what runs above it.
 */
import { parentPort, workerData } from "node:worker_threads";
import { TlsConnection } from "./tls-connection.js";
import type { TlsNews, TlsOrder } from "./tls-messages.js";
import type { TlsTerms } from "./tls-terms.js";

const port = parentPort!;
const terms = workerData as TlsTerms;
const connections = new Map<number, TlsConnection>();
const tell = (news: TlsNews) => port.postMessage(news);

function carry(order: Extract<TlsOrder, { kind: "carry" }>): void {
  const { connection } = order;
  connections.set(connection, new TlsConnection(order, terms, tell, () => connections.delete(connection)));
}

port.on("message", (order: TlsOrder) => {
  switch (order.kind) {
    case "carry":
      carry(order);
      break;
    case "leave":
      connections.get(order.connection)?.leave();
      break;
    case "end":
      port.unref(); // from now on the sockets alone keep the thread
      break;
  }
});
