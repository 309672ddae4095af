export async function register() {
  const { load } = await import("./guides/instrumentation.mjs");
  if (load) await (await load()).register();
}
