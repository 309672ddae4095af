// A server that needs the secret AUTH_SECRET. It signs the path of each request.
const { createHmac } = require("node:crypto");
const { createServer } = require("node:http");

const secret = process.env.AUTH_SECRET;
if (!secret) {
  console.error("AUTH_SECRET is missing");
  process.exit(1);
}

const server = createServer((request, response) => {
  if (request.url === "/live" || request.url === "/ready") {
    response.end("ok\n");
    return;
  }
  response.end(createHmac("sha256", secret).update(request.url).digest("hex") + "\n");
});

// The server answers requests that have begun, and then exits.
process.on("SIGTERM", () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});

server.listen(Number(process.env.PORT ?? 8080), () => {
  console.log(`listening on port ${server.address().port}`);
});
