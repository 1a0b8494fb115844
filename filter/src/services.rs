//! Service names, so that `--dport ssh` means the same on every machine.

/// `name/port/protocols` (t TCP, u UDP, s SCTP, d DCCP), the names that Debian's `/etc/services` has.
#[rustfmt::skip]
const SERVICES: &str = "\
Clearcase/371/u acr-nema/104/t afpovertcp/548/t afs3-bos/7007/u afs3-callback/7001/u \
afs3-fileserver/7000/u afs3-kaserver/7004/u afs3-prserver/7002/u afs3-rmtsys/7009/u \
afs3-update/7008/u afs3-vlserver/7003/u afs3-volser/7005/u amanda/10080/t amandaidx/10082/t \
amidxtape/10083/t amqp/5672/ts amqps/5671/t asf-rmcp/623/u asp/27374/tu auth/113/t \
authentication/113/t babel/6696/u bacula-dir/9101/t bacula-fd/9102/t bacula-sd/9103/t \
bbs/7000/t bgp/179/t bgpd/2605/t biff/512/u binkp/24554/t bootpc/68/u bootps/67/u \
canna/5680/t cfengine/5308/t chargen/19/tu cisco-sccp/2000/t clc-build-daemon/8990/t \
clearcase/371/u cmd/514/t cmip-agent/164/tu cmip-man/163/tu codaauth2/370/tu \
codasrv/2432/tu codasrv-se/2433/tu comsat/512/u csync2/30865/t cvspserver/2401/t \
daap/3689/t datametrics/1645/tu daytime/13/tu db-lsp/17500/t dcap/22125/t \
dhcpv6-client/546/u dhcpv6-server/547/u dicom/104/t dicom/11112/t dict/2628/t \
dircproxy/57000/t discard/9/tu distcc/3632/t domain/53/tu domain-s/853/tu echo/7/tu \
epmap/135/t epmd/4369/t exec/512/t f5-globalsite/2792/t f5-iquery/4353/t fax/4557/t \
fido/60179/t finger/79/t font-service/7100/t freeciv/5556/t fsp/21/u fspd/21/u ftp/21/t \
ftp-data/20/t ftps/990/t ftps-data/989/t gdomap/538/tu gds-db/3050/t gds_db/3050/t \
git/9418/t gnunet/2086/tu gnutella-rtr/6347/tu gnutella-svc/6346/tu gopher/70/t gpsd/2947/t \
gris/2135/t groupwise/1677/t gsidcap/22128/t gsiftp/2811/t gsigatekeeper/2119/t hkp/11371/t \
hprop/754/t http/80/t http-alt/8080/t https/443/tu hylafax/4559/t iax/4569/u icp/3130/u \
icpv2/3130/u ident/113/t imap/143/t imap2/143/t imaps/993/t ingreslock/1524/t ipp/631/t \
iprop/2121/t ipsec-nat-t/4500/u ipx/213/u ircd/6667/t ircs-u/6697/t isakmp/500/u \
iscsi-target/3260/t isisd/2608/t isns/3205/tu iso-tsap/102/t jabber-client/5222/t \
jabber-server/5269/t kamanda/10081/t kdc/750/tu kerberos/88/tu kerberos-adm/749/t \
kerberos-iv/750/tu kerberos-master/751/tu kerberos-sec/88/tu kerberos4/750/tu \
kerberos5/88/tu kerberos_master/751/u kermit/1649/t klogin/543/t kpasswd/464/tu \
krb-prop/754/t krb5/88/tu krb5_prop/754/t krb_prop/754/t krcmd/544/t kshell/544/t \
l2f/1701/u l2tp/1701/u ldap/389/tu ldaps/636/tu ldp/646/tu loc-srv/135/t login/513/t \
lotusnote/1352/t lotusnotes/1352/t lrrd/4949/t mail/25/t mailq/174/t mdns/5353/u \
microsoft-ds/445/t moira-db/775/t moira-update/777/t moira-ureg/779/u moira_db/775/t \
moira_update/777/t moira_ureg/779/u mon/2583/tu ms-sql-m/1434/u ms-sql-s/1433/t \
ms-wbt-server/3389/t mtn/4691/t munin/4949/t mysql/3306/t mysql-proxy/6446/t nbd/10809/t \
netbios-dgm/138/u netbios-ns/137/u netbios-ssn/139/t netstat/15/t nfs/2049/tu nicname/43/t \
nntp/119/t nntps/563/t nqs/607/t nrpe/5666/t nsca/5667/t ntalk/518/u ntp/123/u ntske/4460/t \
null/9/tu nut/3493/tu old-radacct/1646/tu old-radius/1645/tu omniorb/8088/t openvpn/1194/tu \
ospf6d/2606/t ospfapi/2607/t ospfd/2604/t passwd-server/752/u passwd_server/752/u \
pawserv/345/t pop-3/110/t pop3/110/t pop3s/995/t poppassd/106/t portmapper/111/tu \
postgres/5432/t postgresql/5432/t predict/1210/u printer/515/t proofd/1093/t \
ptp-event/319/u ptp-general/320/u puppet/8140/t qmqp/628/t qmtp/209/t qotd/17/t quote/17/t \
radacct/1813/tu radius/1812/tu radius-acct/1813/tu radmin-port/4899/t readnews/119/t \
redis/6379/t remctl/4373/t ripd/2602/t ripngd/2603/t rmiregistry/1099/t rmtcfg/1236/t \
rootd/1094/t route/520/u routed/520/u router/520/u rpc2portmap/369/tu rplay/5555/u \
rptp/5556/t rsync/873/t rtcm-sc104/2101/tu rtsp/554/tu sa-msg-port/1646/tu saft/487/t \
sane/6566/t sane-port/6566/t saned/6566/t sge-execd/6445/t sge-qmaster/6444/t \
sge_execd/6445/t sge_qmaster/6444/t sgi-cad/17004/t sgi-cmsd/17001/u sgi-crsd/17002/u \
sgi-gcd/17003/u shell/514/t sieve/4190/t silc/706/t sink/9/tu sip/5060/tu sip-tls/5061/tu \
skkserv/1178/t smtp/25/t smtps/465/t smux/199/t snmp/161/tu snmp-trap/162/tu \
snmptrap/162/tu snntp/563/t snpp/444/t socks/1080/t source/19/tu spamd/783/t spooler/515/t \
ssh/22/t ssmtp/465/t submission/587/t submissions/465/t subversion/3690/t sunrpc/111/tu \
supfiledbg/1127/t supfilesrv/871/t suucp/4031/t svn/3690/t svrloc/427/tu syslog/514/tu \
syslog-tls/6514/t sysrqd/4094/t systat/11/t tacacs/49/tu talk/517/u tap/113/t tcpmux/1/t \
telnet/23/t telnets/992/t tfido/60177/t tftp/69/u time/37/tu timserver/37/tu tinc/655/tu \
tproxy/8081/t tsap/102/t ttytst/19/tu untp/119/t urd/465/t users/11/t uucp/540/t \
uucpd/540/t venus/2430/tu venus-se/2431/tu wais/210/t webcache/8080/t webmin/10000/t \
who/513/u whod/513/u whois/43/t wnn6/22273/t www/80/t x11/6000/t x11-0/6000/t x11-1/6001/t \
x11-2/6002/t x11-3/6003/t x11-4/6004/t x11-5/6005/t x11-6/6006/t x11-7/6007/t xdmcp/177/u \
xfs/7100/t xinetd/9098/t xmms2/9667/t xmpp-client/5222/t xmpp-server/5269/t xtel/1313/t \
xtelw/1314/t z3950/210/t zabbix-agent/10050/t zabbix-trapper/10051/t zebra/2601/t \
zebrasrv/2600/t zephyr-clt/2103/u zephyr-hm/2104/u zephyr-srv/2102/u zope/9673/t \
zope-ftp/8021/t zserv/346/t";

/// The port of a service. Without a protocol the first entry of that name counts, as in
/// `getservbyname`.
pub(crate) fn port(name: &str, protocol: Option<u8>) -> Option<u16> {
    let letter = match protocol {
        Some(tidegate_packet::protocol::TCP) => Some('t'),
        Some(tidegate_packet::protocol::UDP | tidegate_packet::protocol::UDPLITE) => Some('u'),
        Some(tidegate_packet::protocol::SCTP) => Some('s'),
        Some(tidegate_packet::protocol::DCCP) => Some('d'),
        _ => None,
    };
    SERVICES.split(' ').find_map(|entry| {
        let mut parts = entry.split('/');
        let (service, port, protocols) = (parts.next()?, parts.next()?, parts.next()?);
        (service == name && letter.is_none_or(|l| protocols.contains(l)))
            .then(|| port.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_their_ports() {
        assert_eq!(port("ssh", Some(6)), Some(22));
        assert_eq!(port("https", None), Some(443));
        assert_eq!(port("domain", Some(17)), Some(53));
        assert_eq!(port("tftp", Some(6)), None);
        assert_eq!(port("nosuch", None), None);
        assert!(SERVICES.split(' ').all(|e| e.split('/').count() == 3));
    }
}
