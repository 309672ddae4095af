// Runs operations for a benchmark. Each line of standard input has the name of an operation and a number of calls. The
// response is a line with the time of these calls in nanoseconds.
import { createInterface } from "node:readline";

export async function serve(operations) {
  // Node compiles the code of an operation after some calls.
  for (const work of Object.values(operations)) {
    for (let call = 0; call < 500; call += 1) await work();
  }
  console.log("ready");
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, calls] = line.split(" ");
    const work = operations[name];
    const start = process.hrtime.bigint();
    for (let call = 0; call < Number(calls); call += 1) await work();
    console.log(String(process.hrtime.bigint() - start));
  }
}
