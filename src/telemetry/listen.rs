//! Sockets that listen, for IPv6 and IPv4 at once where the system has both.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Socket, Type};

use super::Error;

/// Connections that wait in the kernel until they are accepted.
const BACKLOG: i32 = 1024;
/// Linux's number of the error "address family not supported", which std has no kind for.
const EAFNOSUPPORT: i32 = 97;

/// Listens on `address`. `[::]` takes IPv4 too, and stands for `0.0.0.0` where the system has no IPv6.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    bind_by(address, listen)
}

fn bind_by<T>(address: SocketAddr, listen: impl Fn(SocketAddr) -> io::Result<T>) -> Result<T, Error> {
    let failed = |address| move |source| Error::Listen { address, source };
    match listen(address) {
        Ok(listener) => Ok(listener),
        Err(error) => match fallback(address, &error) {
            Some(instead) => {
                tracing::warn!(%error, "failed to listen on {address}; listening on {instead}");
                listen(instead).map_err(failed(instead))
            }
            None => Err(failed(address)(error)),
        },
    }
}

/// The address to listen on instead: only for all addresses of a family that is missing. Any other error, such as a port
/// that is in use, would be hidden by it.
fn fallback(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let missing =
        error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable;
    let all = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    (missing && all).then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        // The default is the node's `net.ipv6.bindv6only`.
        socket.set_only_v6(false)?;
    }
    // As std does: connections of an earlier process that are in TIME_WAIT do not hold the port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const EACCES: i32 = 13;
    const EADDRINUSE: i32 = 98;
    const EADDRNOTAVAIL: i32 = 99;
    const EMFILE: i32 = 24;

    #[test]
    fn ipv4_stands_in_only_where_the_family_is_missing() {
        for (address, error, expected) in [
            ("[::]:8080", EAFNOSUPPORT, Some("0.0.0.0:8080")),
            ("[::]:8080", EADDRNOTAVAIL, Some("0.0.0.0:8080")),
            ("[::]:8080", EADDRINUSE, None),
            ("[::]:80", EACCES, None),
            ("[::]:8080", EMFILE, None),
            // An address that was named is meant.
            ("[::1]:8080", EADDRNOTAVAIL, None),
            ("[fd00::5]:8080", EAFNOSUPPORT, None),
            ("0.0.0.0:8080", EAFNOSUPPORT, None),
            ("10.0.0.5:8080", EADDRNOTAVAIL, None),
        ] {
            let found = fallback(address.parse().unwrap(), &io::Error::from_raw_os_error(error));
            assert_eq!(
                found,
                expected.map(|expected| expected.parse().unwrap()),
                "{address} {error}"
            );
        }
    }

    #[test]
    fn the_address_that_failed_is_named() {
        let failing = |first: i32, second: i32| {
            let tried = Mutex::new(Vec::new());
            let error = bind_by("[::]:8080".parse().unwrap(), |address| {
                tried.lock().unwrap().push(address.to_string());
                let number = if address.is_ipv6() { first } else { second };
                Err::<(), _>(io::Error::from_raw_os_error(number))
            })
            .unwrap_err()
            .to_string();
            (error, tried.into_inner().unwrap())
        };
        let (error, tried) = failing(EAFNOSUPPORT, EADDRINUSE);
        assert!(error.ends_with("0.0.0.0:8080"), "{error}");
        assert_eq!(tried, ["[::]:8080", "0.0.0.0:8080"]);
        let (error, tried) = failing(EADDRINUSE, EADDRINUSE);
        assert!(error.ends_with("[::]:8080"), "{error}");
        assert_eq!(tried, ["[::]:8080"]);
    }
}
