//! Programs between a service and its backend, such as gateways and sign-in pages, respond in the place of the
//! backend. Their responses mean nothing about a secret or a login.

mod chain;
mod service;
mod table;
