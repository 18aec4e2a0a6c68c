// The line to the server: what it says arrives here, and it is called again when it has gone.

const RETRY_MS = 1000;
const NUMBER_BYTES = 4;

/**
 * Keeps a WebSocket open. `onState(state)` and `onEvent(event, jpeg)` get what comes, `jpeg` an
 * ArrayBuffer view or null; `onGone()` is told when the server is not there. Returns a function
 * that sends a wish.
 */
export function connect({ onState, onEvent, onGone }) {
  let socket = null;

  function open() {
    const address = new URL("live", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.search = address.hash = "";
    socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onmessage = receiver(onState, onEvent);
    socket.onclose = () => {
      onGone();
      setTimeout(open, RETRY_MS);
    };
  }

  open();
  return (wish) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(wish));
  };
}

/** Puts an event and its picture, which follows under the same number, together again. */
function receiver(onState, onEvent) {
  let awaiting = null;
  return ({ data }) => {
    if (typeof data === "string") {
      const message = JSON.parse(data);
      if (message.type === "state") onState(message);
      else if (message.picture) awaiting = message;
      else onEvent(message, null);
    } else if (awaiting?.number % 2 ** 32 === new DataView(data).getUint32(0)) {
      onEvent(awaiting, new Uint8Array(data, NUMBER_BYTES));
      awaiting = null;
    }
  };
}
