// As most applications have it: what the secret is when the module is loaded, it remains.
import NextAuth from "next-auth";
import Credentials from "next-auth/providers/credentials";

import { options } from "../../../../options.mjs";
import { secretNow } from "../../../../secret.mjs";

const { handlers } = NextAuth(options(Credentials, await secretNow(), "/eager/v5"));

export const { GET, POST } = handlers;
