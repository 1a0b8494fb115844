//! The client against a small server, with a clock that the test moves.

use super::*;
use smoltcp::wire::DhcpOption;

const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const SERVER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x67]);
const SERVER: Ipv4Address = Ipv4Address::new(192, 0, 2, 1);
const ADDRESS: Ipv4Address = Ipv4Address::new(192, 0, 2, 77);

/// What a client's frame says.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    kind: DhcpMessageType,
    xid: u32,
    to_mac: MacAddr,
    from: Addr,
    to: Addr,
    requested: Option<Ipv4Address>,
}

fn read(frame: &[u8]) -> Asked {
    let link = ethernet::Header::parse(frame).unwrap();
    assert_eq!((link.ethertype, link.src), (ethernet::IPV4, CLIENT_MAC));
    let packet = &frame[link.len..];
    let ip = ipv4::Header::new_checked(packet).unwrap();
    let datagram = &packet[ip.header_len()..];
    let header = udp::Header::new_checked(datagram).unwrap();
    assert_eq!((header.sport(), header.dport()), (68, 67));
    let message = DhcpPacket::new_checked(&datagram[8..]).unwrap();
    let repr = DhcpRepr::parse(&message).unwrap();
    assert_eq!(repr.client_hardware_address.0, CLIENT_MAC.0);
    Asked {
        kind: repr.message_type,
        xid: repr.transaction_id,
        to_mac: link.dst,
        from: ip.src(),
        to: ip.dst(),
        requested: repr.requested_ip,
    }
}

struct Answering {
    kind: DhcpMessageType,
    lease: u32,
    from: Ipv4Address,
    address: Ipv4Address,
    routers: &'static [u8],
}

impl Default for Answering {
    fn default() -> Self {
        Self {
            kind: DhcpMessageType::Ack,
            lease: 3600,
            from: SERVER,
            address: ADDRESS,
            routers: &[192, 0, 2, 254],
        }
    }
}

impl Answering {
    fn of(kind: DhcpMessageType) -> Self {
        Self { kind, ..Self::default() }
    }

    fn frame(&self, xid: u32) -> Vec<u8> {
        let granted = self.kind != DhcpMessageType::Nak;
        let routers = [DhcpOption { kind: OPTION_ROUTER, data: self.routers }];
        let repr = DhcpRepr {
            message_type: self.kind,
            transaction_id: xid,
            secs: 0,
            client_hardware_address: EthernetAddress(CLIENT_MAC.0),
            client_ip: Ipv4Address::UNSPECIFIED,
            your_ip: if granted { self.address } else { Ipv4Address::UNSPECIFIED },
            server_ip: SERVER,
            router: None,
            subnet_mask: granted.then_some(Ipv4Address::new(255, 255, 255, 0)),
            relay_agent_ip: Ipv4Address::UNSPECIFIED,
            broadcast: false,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(SERVER),
            parameter_request_list: None,
            dns_servers: Some([SERVER].into_iter().collect()),
            max_size: None,
            lease_duration: granted.then_some(self.lease),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &routers,
        };
        let mut payload = vec![0; repr.buffer_len()];
        repr.emit(&mut DhcpPacket::new_unchecked(&mut payload)).unwrap();
        let ip = Ip::new(self.from.into(), self.address.into(), protocol::UDP);
        let packet = builder::udp(ip, 67, 68, &payload);
        let mut frame = vec![0; ethernet::HEADER_LEN];
        ethernet::write(&mut frame, CLIENT_MAC, SERVER_MAC, ethernet::IPV4);
        frame.extend_from_slice(&packet);
        frame
    }
}

fn secs(n: u64) -> Instant {
    Instant::from_secs(n)
}

fn poll(client: &mut DhcpClient, now: Instant) -> (Vec<Asked>, Option<Event>) {
    let mut out = Vec::new();
    let event = client.poll(now, &mut out);
    (out.iter().map(|f| read(f)).collect(), event)
}

/// The only frame that is sent now.
fn ask(client: &mut DhcpClient, now: Instant) -> Asked {
    let (mut asked, event) = poll(client, now);
    assert_eq!((asked.len(), event), (1, None));
    asked.remove(0)
}

/// A client with the answer's lease, at second 10.
fn bound(ack: &Answering) -> DhcpClient {
    let mut client = DhcpClient::new(CLIENT_MAC, 1, secs(10));
    let discover = ask(&mut client, secs(10));
    let offer = Answering { kind: DhcpMessageType::Offer, ..*ack };
    client.input(&offer.frame(discover.xid), secs(10));
    let request = ask(&mut client, secs(10));
    client.input(&ack.frame(request.xid), secs(10));
    let (asked, event) = poll(&mut client, secs(10));
    assert!(asked.is_empty() && matches!(event, Some(Event::Configured(_))), "{event:?}");
    client
}

#[test]
fn a_lease_is_discovered_and_requested() {
    let mut client = DhcpClient::new(CLIENT_MAC, 1, secs(10));
    assert_eq!(client.next_poll(secs(10)), Some(secs(10)));
    let discover = ask(&mut client, secs(10));
    assert_eq!(discover.kind, DhcpMessageType::Discover);
    assert_eq!((discover.from, discover.to_mac), (Addr::UNSPECIFIED_V4, MacAddr::BROADCAST));
    client.input(&Answering::of(DhcpMessageType::Offer).frame(discover.xid), secs(11));
    let request = ask(&mut client, secs(11));
    assert_eq!((request.kind, request.requested), (DhcpMessageType::Request, Some(ADDRESS)));
    client.input(&Answering::default().frame(request.xid), secs(12));
    let lease = Lease {
        address: "192.0.2.77/24".parse().unwrap(),
        router: Some("192.0.2.254".parse().unwrap()),
        dns: vec![SERVER.into()],
        server: SERVER.into(),
    };
    assert_eq!(client.lease(), Some(&lease));
    assert_eq!(poll(&mut client, secs(12)), (vec![], Some(Event::Configured(lease))));
    assert_eq!(poll(&mut client, secs(12)), (vec![], None));
    // T1 is half of the lease.
    assert_eq!(client.next_poll(secs(12)), Some(secs(12 + 1800)));
}

#[test]
fn questions_are_repeated_until_somebody_answers() {
    let mut client = DhcpClient::new(CLIENT_MAC, 1, secs(10));
    let first = ask(&mut client, secs(10));
    assert_eq!(client.next_poll(secs(10)), Some(secs(14)));
    assert_eq!(poll(&mut client, secs(13)), (vec![], None));
    let second = ask(&mut client, secs(14));
    assert_eq!(second.kind, DhcpMessageType::Discover);
    // An answer to the question before the last comes too late.
    client.input(&Answering::of(DhcpMessageType::Offer).frame(first.xid), secs(15));
    assert_eq!(poll(&mut client, secs(15)), (vec![], None));
    client.input(&Answering::of(DhcpMessageType::Offer).frame(second.xid), secs(15));
    assert_eq!(ask(&mut client, secs(15)).kind, DhcpMessageType::Request);
    // An unanswered request is repeated, and given up for a new discovery.
    let mut kinds = Vec::new();
    let mut now = secs(15);
    while kinds.last() != Some(&DhcpMessageType::Discover) {
        now = client.next_poll(now).unwrap();
        kinds.extend(poll(&mut client, now).0.into_iter().map(|a| a.kind));
        assert!(kinds.len() < 10);
    }
    assert_eq!(kinds[..4], [DhcpMessageType::Request; 4]);
}

#[test]
fn a_refusal_starts_again() {
    let mut client = DhcpClient::new(CLIENT_MAC, 1, secs(10));
    let discover = ask(&mut client, secs(10));
    client.input(&Answering::of(DhcpMessageType::Offer).frame(discover.xid), secs(10));
    let request = ask(&mut client, secs(10));
    client.input(&Answering::of(DhcpMessageType::Nak).frame(request.xid), secs(10));
    assert_eq!(ask(&mut client, secs(10)).kind, DhcpMessageType::Discover);
}

#[test]
fn a_lease_is_renewed_with_its_server() {
    let mut client = bound(&Answering::default());
    let t1 = secs(10 + 1800);
    let renewal = ask(&mut client, t1);
    assert_eq!(renewal.kind, DhcpMessageType::Request);
    assert_eq!((renewal.from, renewal.to), (ADDRESS.into(), SERVER.into()));
    assert_eq!(renewal.to_mac, SERVER_MAC);
    client.input(&Answering::default().frame(renewal.xid), t1);
    assert_eq!(poll(&mut client, t1), (vec![], None));
    assert_eq!(client.next_poll(t1), Some(t1 + Duration::from_secs(1800)));
}

#[test]
fn a_server_behind_a_relay_is_renewed_with_by_the_link_address_that_answered() {
    let from = Ipv4Address::new(198, 51, 100, 9);
    for routers in [&[192, 0, 2, 254][..], &[]] {
        let mut client = bound(&Answering { from, routers, ..Answering::default() });
        let renewal = ask(&mut client, secs(10 + 1800));
        assert_eq!((renewal.to, renewal.to_mac), (from.into(), SERVER_MAC));
    }
}

#[test]
fn a_renewal_that_changes_the_lease_is_told() {
    let mut client = bound(&Answering::default());
    let renewal = ask(&mut client, secs(1810));
    let other = Answering { address: Ipv4Address::new(192, 0, 2, 78), ..Answering::default() };
    client.input(&other.frame(renewal.xid), secs(1810));
    let (_, event) = poll(&mut client, secs(1810));
    assert!(
        matches!(event, Some(Event::Configured(l)) if l.address.to_string() == "192.0.2.78/24")
    );
}

#[test]
fn a_lease_is_rebound_with_anybody_and_then_ends() {
    let mut client = bound(&Answering::default());
    let expiry = secs(10 + 3600);
    let rebind = secs(10 + 3150);
    let mut now = secs(10);
    let mut asked = Vec::new();
    let event = loop {
        now = client.next_poll(now).unwrap();
        assert!(now <= expiry);
        let (frames, event) = poll(&mut client, now);
        asked.extend(frames.into_iter().map(|a| (now, a)));
        if event.is_some() {
            break event;
        }
    };
    assert_eq!((event, now), (Some(Event::Deconfigured), expiry));
    assert_eq!(client.lease(), None);
    let (last, before) = asked.split_last().unwrap();
    assert_eq!(last.1.kind, DhcpMessageType::Discover);
    assert_eq!(last.1.from, Addr::UNSPECIFIED_V4);
    assert!(
        before.iter().any(|(at, _)| *at < rebind) && before.iter().any(|(at, _)| *at >= rebind)
    );
    for (at, a) in before {
        let to = if *at < rebind { SERVER_MAC } else { MacAddr::BROADCAST };
        assert_eq!((a.kind, a.to_mac), (DhcpMessageType::Request, to), "{at:?}");
    }
}

#[test]
fn a_refused_renewal_ends_the_lease_at_once() {
    let mut client = bound(&Answering::default());
    let renewal = ask(&mut client, secs(1810));
    client.input(&Answering::of(DhcpMessageType::Nak).frame(renewal.xid), secs(1810));
    let (asked, event) = poll(&mut client, secs(1810));
    assert_eq!(event, Some(Event::Deconfigured));
    assert_eq!(asked[0].kind, DhcpMessageType::Discover);
}

#[test]
fn the_first_of_several_routers_is_taken() {
    for (routers, want) in [
        (&[192, 0, 2, 9, 192, 0, 2, 8][..], Some("192.0.2.9")),
        (&[0, 0, 0, 0], None),
        (&[255, 255, 255, 255], None),
        (&[192, 0, 2], None),
    ] {
        let client = bound(&Answering { routers, ..Answering::default() });
        let want = want.map(|w| w.parse().unwrap());
        assert_eq!(client.lease().unwrap().router, want, "{routers:?}");
    }
}

#[test]
fn a_lease_is_given_back() {
    let mut client = bound(&Answering::default());
    let mut out = Vec::new();
    client.release(&mut out);
    let asked = read(&out[0]);
    assert_eq!(asked.kind, DhcpMessageType::Release);
    assert_eq!((asked.from, asked.to, asked.to_mac), (ADDRESS.into(), SERVER.into(), SERVER_MAC));
    assert_eq!(client.lease(), None);
    client.release(&mut out);
    assert_eq!(out.len(), 1);
}

#[test]
fn frames_from_nobody_and_damaged_ones_change_nothing() {
    let mut client = DhcpClient::new(CLIENT_MAC, 1, secs(10));
    let discover = ask(&mut client, secs(10));
    let offer = Answering::of(DhcpMessageType::Offer);
    for from in [Ipv4Address::UNSPECIFIED, Ipv4Address::BROADCAST, Ipv4Address::new(224, 0, 0, 1)] {
        client.input(
            &Answering { from, kind: offer.kind, ..Answering::default() }.frame(discover.xid),
            secs(10),
        );
        assert_eq!(poll(&mut client, secs(10)), (vec![], None), "{from}");
    }
    let whole = offer.frame(discover.xid);
    assert!(DhcpClient::wants(&whole));
    for len in 0..whole.len() {
        client.input(&whole[..len], secs(10));
    }
    let mut bound = bound(&Answering::default());
    let renewal = ask(&mut bound, secs(1810));
    for (client, whole) in
        [(&mut client, whole.clone()), (&mut bound, Answering::default().frame(renewal.xid))]
    {
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0xff;
            client.input(&broken, secs(1810));
            let mut out = Vec::new();
            client.poll(secs(1810), &mut out);
        }
    }
    let mut other = whole;
    other[37] = 69;
    assert!(!DhcpClient::wants(&other));
}
