//! Names that the wire gives: the host of an `:authority`, and what an address says of a remote end that has
//! no better name. Strings and addresses flow in, names flow out.

use super::Name;
use std::net::{IpAddr, SocketAddr};

/// The longest DNS name; what is longer names nothing.
const LONGEST_HOST: usize = 253;

/// The host of an authority, in lower case and without its port; an address or `localhost` names no service.
#[must_use]
pub fn host(authority: &str) -> Option<String> {
    let without_user = authority.rsplit('@').next()?;
    if without_user.starts_with('[') {
        return None; // an IPv6 literal
    }
    let host = without_user.split(':').next()?.trim_end_matches('.').to_ascii_lowercase();
    let is_name = !host.is_empty()
        && host.len() <= LONGEST_HOST
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && host != "localhost"
        && !host.ends_with(".localhost")
        && host.parse::<IpAddr>().is_err();
    is_name.then_some(host)
}

/// The service that a host means, asked from a namespace: Kubernetes' `cart.shop.svc.cluster.local`,
/// `cart.shop.svc` and, from inside the namespace `shop`, `cart` are one service.
#[must_use]
pub fn name_of_host(host: &str, namespace: Option<&str>) -> Name {
    let labels: Vec<&str> = host.split('.').collect();
    match (labels.as_slice(), namespace) {
        ([name, space, "svc", ..], _) => Name::namespaced(space, name),
        ([name], Some(space)) => Name::namespaced(space, name),
        _ => Name::plain(host),
    }
}

/// The name of a remote server that no authority names: what usually listens there, else its address class.
/// Never an address: one would make a series for each.
#[must_use]
pub fn name_of_server(remote: SocketAddr) -> Name {
    Name::plain(well_known(remote.port()).unwrap_or_else(|| address_class(remote.ip())))
}

/// The name of a remote client: its port says nothing.
#[must_use]
pub fn name_of_client(remote: SocketAddr) -> Name {
    Name::plain(address_class(remote.ip()))
}

/// What listens on a port, where nearly everyone agrees.
#[must_use]
pub fn well_known(port: u16) -> Option<&'static str> {
    Some(match port {
        53 => "dns",
        1433 => "sqlserver",
        1521 => "oracle",
        2181 => "zookeeper",
        2379 => "etcd",
        3306 => "mysql",
        4222 => "nats",
        5432 => "postgres",
        5672 => "rabbitmq",
        6379 => "redis",
        9042 => "cassandra",
        9092 => "kafka",
        9200 => "elasticsearch",
        11211 => "memcached",
        27017 => "mongodb",
        _ => return None,
    })
}

fn address_class(address: IpAddr) -> &'static str {
    let private = match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local() || is_shared(v4.octets()),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    };
    if address.is_loopback() {
        "external:loopback"
    } else if private {
        "external:private"
    } else {
        "external:public"
    }
}

/// 100.64.0.0/10 (RFC 6598), which several clouds give to pods.
fn is_shared(octets: [u8; 4]) -> bool {
    matches!(octets, [100, second, ..] if second & 0b1100_0000 == 0b0100_0000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn hosts() {
        let cases = [
            ("cart:7070", Some("cart")),
            ("Cart.Shop.svc.cluster.local.:7070", Some("cart.shop.svc.cluster.local")),
            ("user@cart", Some("cart")),
            ("127.0.0.1:7070", None),
            ("[::1]:7070", None),
            ("localhost:7070", None),
            ("", None),
            ("a/b", None),
        ];
        for (authority, expected) in cases {
            assert_eq!(host(authority).as_deref(), expected, "{authority}");
        }
    }

    #[test]
    fn names() {
        let shop = Name::namespaced("shop", "cart");
        assert_eq!(name_of_host("cart.shop.svc.cluster.local", None), shop);
        assert_eq!(name_of_host("cart", Some("shop")), shop);
        assert_eq!(name_of_host("cart", None), Name::plain("cart"));
        assert_eq!(name_of_host("api.example.com", Some("shop")), Name::plain("api.example.com"));
        for (remote, server, client) in [
            ("10.0.0.1:6379", "redis", "external:private"),
            ("100.70.1.1:80", "external:private", "external:private"),
            ("127.0.0.1:80", "external:loopback", "external:loopback"),
            ("8.8.8.8:443", "external:public", "external:public"),
            ("[fd00::1]:5432", "postgres", "external:private"),
        ] {
            let remote = remote.parse().unwrap();
            assert_eq!(&*name_of_server(remote).text, server);
            assert_eq!(&*name_of_client(remote).text, client);
        }
    }
}
