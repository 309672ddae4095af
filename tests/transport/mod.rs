//! Networks between the backends and their servers: connections that become silent, proxies, plain HTTP.

mod plain_http;
mod proxy;
mod silence;
