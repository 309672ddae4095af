// The configuration of both versions of next-auth. Any name is accepted as a login.
export const options = (Credentials, secret, basePath) => ({
  basePath,
  providers: [
    Credentials({
      credentials: { name: {} },
      authorize: ({ name }) => ({ id: "1", name }),
    }),
  ],
  secret,
  trustHost: true,
});
