// Short builds: no minification, and the AWS packages that the client of Infisical uses are not bundled.
export default {
  experimental: { turbopackMinify: false, turbopackSourceMaps: false },
  serverExternalPackages: ["@infisical/sdk"],
};
