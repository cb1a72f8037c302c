/** Hands what the issuer has sent to the page that has asked for it, and closes the window. */

const answer = Object.fromEntries(new URLSearchParams(location.search));
// The code is for one use, and stays in no history.
history.replaceState(null, "", location.pathname);
const channel = new BroadcastChannel("user-service-admin-sign-in");
channel.addEventListener("message", ({ data }) => {
  if (data.taken === answer.state) window.close();
});
channel.postMessage({ answer });
