// The lazy form: the options are created in each request.
import NextAuth from "next-auth-4";
import Credentials from "next-auth-4/providers/credentials";

import { options } from "../../../../options.mjs";
import { secretNow } from "../../../../secret.mjs";

const handler = async (request, context) =>
  NextAuth(options(Credentials, await secretNow()))(request, context);

export { handler as GET, handler as POST };
