// The lazy form: the options are created in each request.
import NextAuth from "next-auth";
import Credentials from "next-auth/providers/credentials";

import { options } from "../../../../options.mjs";
import { secretsNow } from "../../../../secret.mjs";

const { handlers } = NextAuth(async () => options(Credentials, await secretsNow(), "/lazy/v5"));

export const { GET, POST } = handlers;
