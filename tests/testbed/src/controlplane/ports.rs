//! Free ports of the loopback address.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

/// Below the range from which Linux takes the ports of outgoing connections (32768 and up): otherwise one of those
/// could take an API server's port while it is stopped.
const FIRST: u64 = 12_000;
const COUNT: u64 = 20_000;

/// `N` different ports that nobody listens on. They are random, so that control planes started at once do not meet.
pub(crate) fn free<const N: usize>() -> Result<[u16; N]> {
    let random = RandomState::new();
    // Held until all are found, so that they differ.
    let mut held = Vec::new();
    let mut ports = [0; N];
    for attempt in 0..1000_u32 {
        let Some(slot) = ports.get_mut(held.len()) else {
            return Ok(ports);
        };
        let port = u16::try_from(FIRST + random.hash_one(attempt) % COUNT)?;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            *slot = port;
            held.push(listener);
        }
    }
    bail!(
        "find {N} free ports on 127.0.0.1 between {FIRST} and {}: too many are taken",
        FIRST + COUNT
    )
}
