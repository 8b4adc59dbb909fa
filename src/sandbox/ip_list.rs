//! Who may call: WeChat's IP white list.

use std::net::{IpAddr, Ipv4Addr};

/// Networks; none at all lets everybody in.
#[derive(Clone, Debug, Default)]
pub(super) struct IpList(Vec<(IpAddr, u32)>);

impl IpList {
    pub(super) fn parse(entries: &[impl AsRef<str>]) -> Result<Self, String> {
        let network = |entry: &str| {
            network(entry).ok_or_else(|| {
                format!("`{entry}` is neither an address nor a network like `10.0.0.0/8`")
            })
        };
        entries
            .iter()
            .map(|entry| network(entry.as_ref()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(super) fn allows(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.is_empty() || self.0.iter().any(|&network| contains(network, ip))
    }
}

fn network(entry: &str) -> Option<(IpAddr, u32)> {
    if let Some(start) = entry.strip_suffix(".*") {
        let start: Ipv4Addr = format!("{start}.0").parse().ok()?;
        return Some((start.into(), 24));
    }
    let (ip, bits) = match entry.split_once('/') {
        Some((ip, bits)) => (ip, Some(bits.parse().ok()?)),
        None => (entry, None),
    };
    let ip: IpAddr = ip.parse().ok()?;
    let widest = if ip.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(widest);
    (bits <= widest).then_some((ip, bits))
}

fn contains((start, bits): (IpAddr, u32), ip: IpAddr) -> bool {
    match (start, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits())
                .checked_shr(32 - bits)
                .unwrap_or(0)
                == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits())
                .checked_shr(128 - bits)
                .unwrap_or(0)
                == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_lets_in_what_it_names() {
        for (entry, ip, allowed) in [
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.*", "10.1.2.200", true),
            ("10.1.2.*", "10.1.3.1", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("10.1.2.3", "::ffff:10.1.2.3", true),
            ("2001:db8::/32", "2001:db8:1::9", true),
            ("2001:db8::/32", "2001:db9::9", false),
        ] {
            let list = IpList::parse(&[entry]).unwrap();
            assert_eq!(list.allows(ip.parse().unwrap()), allowed, "{entry} {ip}");
        }
    }

    #[test]
    fn an_empty_list_lets_everybody_in() {
        assert!(IpList::default().allows("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for entry in [
            "",
            "localhost",
            "10.0.0.0/33",
            "10.0.*",
            "::/129",
            "10.0.0.0/x",
        ] {
            assert!(IpList::parse(&[entry]).unwrap_err().contains(entry));
        }
    }
}
