// The WebSocket to the server, which is opened again when it closes.

const RETRY_MS = 1000;
const NUMBER_BYTES = 4;

/**
 * Keeps a WebSocket open. `onState(state)` and `onEvent(event, jpeg)` get the messages, `jpeg` as an
 * ArrayBuffer view or null; `onClose()` is called when the connection is lost. Returns a function
 * that sends a request.
 */
export function connect({ onState, onEvent, onClose }) {
  let socket = null;

  function open() {
    const address = new URL("live", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.search = address.hash = "";
    socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onmessage = receiver(onState, onEvent);
    socket.onclose = () => {
      onClose();
      setTimeout(open, RETRY_MS);
    };
  }

  open();
  return (request) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(request));
  };
}

/** Joins an event and its image, which follows under the same number. */
function receiver(onState, onEvent) {
  let awaiting = null;
  return ({ data }) => {
    if (typeof data === "string") {
      const message = JSON.parse(data);
      if (message.type === "state") onState(message);
      else if (message.image) awaiting = message;
      else onEvent(message, null);
    } else if (awaiting?.number % 2 ** 32 === new DataView(data).getUint32(0)) {
      onEvent(awaiting, new Uint8Array(data, NUMBER_BYTES));
      awaiting = null;
    }
  };
}
