// The proxy of the guide's application that the variable GUIDE names. Exactly what it exports is exported here.
import { NextResponse } from "next/server";

import { load } from "./guides/proxy.mjs";

const selected = load ? await load() : { proxy: () => NextResponse.next() };

export const proxy = selected.proxy;

export const config = { matcher: "/private/:path*" };
