// The usual form of an application. It reads the secret once, when the module is loaded.
import NextAuth from "next-auth-4";
import Credentials from "next-auth-4/providers/credentials";

import { options } from "../../../../options.mjs";
import { secretNow } from "../../../../secret.mjs";

const handler = NextAuth(options(Credentials, await secretNow()));

export { handler as GET, handler as POST };
