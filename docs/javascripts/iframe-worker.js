// Browsers run no worker from a folder without a server, so the search runs in a hidden frame there.
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const script = document.createElement("script")
      const frame = document.createElement("iframe")
      this.frame = new Promise((resolve) => {
        script.onload = () => resolve(frame.contentWindow)
        frame.onload = () => {
          frame.contentWindow.postMessage = (data) =>
            this.dispatchEvent(new MessageEvent("message", { data }))
          frame.contentDocument.head.append(script)
        }
      })
      script.src = url
      frame.hidden = true
      frame.srcdoc = "<!doctype html>"
      document.documentElement.append(frame)
    }
    postMessage(data) {
      this.frame.then((inner) => inner.dispatchEvent(new inner.MessageEvent("message", { data })))
    }
  }
