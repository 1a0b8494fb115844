//! ICMP errors about a masqueraded flow, as Linux 6.18 takes them.

mod common;

use common::{Gateway, Rules, addr, ip, show, to};
use tidegate_nat::{InvalidReason, State, TranslateError};
use tidegate_packet::builder::{self, udp};
use tidegate_packet::{Parsed, icmp, protocol};

const WAN: &str = "203.0.113.1";

/// A masqueraded query and the gateway that let it out.
fn query() -> (Gateway, Vec<u8>) {
    let mut gw = Gateway::new();
    let packet = udp(ip("192.168.0.5", "203.0.113.9", protocol::UDP), 5000, 53, b"query");
    let out = gw.pass(&packet, Rules { snat: Some(to(WAN)), dnat: None }).unwrap();
    (gw, out)
}

fn error(kind: u8, code: u8, dst: &str, quote: &[u8]) -> Vec<u8> {
    builder::icmp(ip("203.0.113.2", dst, protocol::ICMP), kind, code, [0; 4], quote)
}

fn state(gw: &mut Gateway, bytes: &[u8]) -> State {
    let packet = Parsed::parse(bytes).unwrap();
    gw.table.track(&packet, bytes, true, gw.now).state()
}

#[test]
fn every_kind_is_related_whatever_the_code() {
    for kind in
        [icmp::DEST_UNREACHABLE, icmp::SOURCE_QUENCH, icmp::TIME_EXCEEDED, icmp::PARAMETER_PROBLEM]
    {
        for code in [0, 3, 99] {
            let (mut gw, out) = query();
            let bytes = error(kind, code, WAN, &out[..28]);
            assert_eq!(state(&mut gw, &bytes), State::Related);
            let back = gw.pass(&bytes, Rules::default()).unwrap();
            let p = Parsed::parse(&back).unwrap();
            assert_eq!((p.src, p.dst), (addr("203.0.113.2"), addr("192.168.0.5")));
        }
    }
}

#[test]
fn redirects_about_translated_flows_stop_here() {
    let (mut gw, out) = query();
    let bytes = error(icmp::REDIRECT, 1, WAN, &out[..28]);
    assert_eq!(state(&mut gw, &bytes), State::Related);
    let stopped = gw.pass(&bytes, Rules::default());
    assert_eq!(stopped, Err(TranslateError::Redirect.to_string()));

    let mut gw = Gateway::new();
    let packet = udp(ip("192.168.0.5", "203.0.113.9", protocol::UDP), 5000, 53, b"query");
    let out = gw.pass(&packet, Rules::default()).unwrap();
    let bytes = error(icmp::REDIRECT, 1, "192.168.0.5", &out[..28]);
    assert_eq!(gw.pass(&bytes, Rules::default()), Ok(bytes));
}

#[test]
fn quotes() {
    use InvalidReason::*;
    type Edit = fn(&mut Vec<u8>);
    let rows: [(&str, Edit, State); 13] = [
        ("eight bytes of transport", |q| q.truncate(28), State::Related),
        ("ports cut off", |q| q.truncate(23), State::Invalid(IcmpQuote)),
        ("an IP header alone", |q| q.truncate(20), State::Invalid(IcmpQuote)),
        ("half an IP header", |q| q.truncate(10), State::Invalid(IcmpQuote)),
        ("nothing", Vec::clear, State::Invalid(IcmpQuote)),
        ("header length 4", |q| q[0] = 0x44, State::Invalid(IcmpQuote)),
        ("version 6", |q| q[0] = 0x65, State::Related),
        ("later fragment", |q| q[7] = 1, State::Invalid(IcmpQuote)),
        ("first fragment", |q| q[6] = 0x20, State::Related),
        ("header checksum", |q| q[10] ^= 1, State::Related),
        ("length", |q| q[3] = 1, State::Related),
        ("TTL", |q| q[8] = 0, State::Related),
        ("another port", |q| q[20] ^= 1, State::Invalid(IcmpNoConnection)),
    ];
    for (what, edit, want) in rows {
        let (mut gw, mut quote) = query();
        edit(&mut quote);
        let bytes = error(icmp::DEST_UNREACHABLE, 3, WAN, &quote);
        assert_eq!(state(&mut gw, &bytes), want, "{what}");
        if want == State::Related {
            assert!(gw.pass(&bytes, Rules::default()).is_ok(), "{what}");
        }
    }
}

/// Enough to find the connection, too little to translate.
#[test]
fn a_quote_too_short_to_translate_is_dropped() {
    let (mut gw, out) = query();
    let bytes = error(icmp::DEST_UNREACHABLE, 3, WAN, &out[..27]);
    assert_eq!(gw.pass(&bytes, Rules::default()), Err(TranslateError::Quote.to_string()));
}

#[test]
fn damaged_or_astray() {
    let (mut gw, out) = query();
    let good = error(icmp::DEST_UNREACHABLE, 3, WAN, &out);
    let mut bytes = good.clone();
    bytes[22] ^= 1;
    assert_eq!(state(&mut gw, &bytes), State::Invalid(InvalidReason::Checksum));
    let bytes = error(icmp::DEST_UNREACHABLE, 3, "203.0.113.77", &out);
    assert_eq!(state(&mut gw, &bytes), State::Invalid(InvalidReason::IcmpAddress));
    let about_error = error(icmp::DEST_UNREACHABLE, 3, WAN, &good);
    assert_eq!(state(&mut gw, &about_error), State::Invalid(InvalidReason::IcmpNoConnection));
    gw.table.flush();
    assert_eq!(state(&mut gw, &good), State::Invalid(InvalidReason::IcmpNoConnection));
}

/// An error doesn't prolong its connection.
#[test]
fn errors_change_nothing() {
    let (mut gw, out) = query();
    gw.wait(20);
    gw.pass(&error(icmp::DEST_UNREACHABLE, 3, WAN, &out), Rules::default()).unwrap();
    gw.wait(11);
    assert_eq!(gw.table.expire(gw.now), 1);
}

/// A hairpin: both ends of the quoted packet are put back.
#[test]
fn both_ends() {
    let mut gw = Gateway::new();
    let packet = udp(ip("192.168.0.5", WAN, protocol::UDP), 5000, 8000, b"query");
    let mut dnat = to("192.168.0.6");
    dnat.ports = Some((80, 80));
    let rules = Rules { snat: Some(to("192.168.0.1")), dnat: Some(dnat) };
    let out = gw.pass(&packet, rules).unwrap();
    assert_eq!(show(&out), "192.168.0.1:5000 > 192.168.0.6:80");
    let about = builder::icmp(
        ip("192.168.0.6", "192.168.0.1", protocol::ICMP),
        icmp::DEST_UNREACHABLE,
        3,
        [0; 4],
        &out,
    );
    let back = gw.pass(&about, Rules::default()).unwrap();
    let p = Parsed::parse(&back).unwrap();
    // The server's name is hidden behind the address that the client wrote to.
    assert_eq!((p.src, p.dst), (addr(WAN), addr("192.168.0.5")));
    assert_eq!(&p.segment(&back)[8..], packet);
}
