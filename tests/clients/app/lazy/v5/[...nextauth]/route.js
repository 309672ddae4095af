// The cure: the options are made in the request.
import NextAuth from "next-auth";
import Credentials from "next-auth/providers/credentials";

import { options } from "../../../../options.mjs";
import { secretsNow } from "../../../../secret.mjs";

const { handlers } = NextAuth(async () => options(Credentials, await secretsNow(), "/lazy/v5"));

export const { GET, POST } = handlers;
