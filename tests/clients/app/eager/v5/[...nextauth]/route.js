// The usual form of an application. It reads the secret once, when the module is loaded.
import NextAuth from "next-auth";
import Credentials from "next-auth/providers/credentials";

import { options } from "../../../../options.mjs";
import { secretNow } from "../../../../secret.mjs";

const { handlers } = NextAuth(options(Credentials, await secretNow(), "/eager/v5"));

export const { GET, POST } = handlers;
