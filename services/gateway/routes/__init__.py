"""What the gateway answers, by address: WebSocket, REST and the page."""
