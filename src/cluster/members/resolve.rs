//! What DNS says of names.

use std::{
    collections::{BTreeSet, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolverOpts},
    net::NetError,
    proto::rr::{Name, RData, RecordType},
};

use crate::cluster::Place;

/// Hosts of a service that are looked up at once.
const AT_ONCE: usize = 16;

/// Hosts of a service that are looked up: more than nodes that make sense in one cluster.
const HOSTS_MOST: usize = 1024;

/// Longest wait for one server. The next one, or the same once more, has the same time.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResolveError {
    /// The system's settings cannot be used.
    #[error("the system's settings for DNS cannot be used: {0}")]
    System(#[source] NetError),
    /// DNS has nothing, or does not answer.
    #[error("{0}")]
    Dns(#[source] NetError),
    /// DNS takes too long.
    #[error("DNS takes too long")]
    TimedOut,
    /// DNS says that there is nothing.
    #[error("DNS has no address for it")]
    Nothing,
}

/// Asks DNS, keeping nothing: what changes is to be seen soon.
pub(super) struct Resolve {
    resolver: Option<TokioResolver>,
    make: Make,
}

/// Makes something to ask with.
type Make = Arc<dyn Fn() -> Result<TokioResolver, NetError> + Send + Sync>;

impl Resolve {
    /// Asks as the system says, `/etc/hosts` first.
    pub(super) fn as_the_system() -> Self {
        Self::with(Arc::new(system_resolver))
    }

    fn with(make: Make) -> Self {
        Self { resolver: None, make }
    }

    /// What to ask with.
    pub(super) async fn resolver(&mut self) -> Result<TokioResolver, ResolveError> {
        if let Some(resolver) = &self.resolver {
            return Ok(resolver.clone());
        }
        // It reads files.
        let make = Arc::clone(&self.make);
        let made = tokio::task::spawn_blocking(move || make()).await;
        let made = made.map_err(|_| ResolveError::Nothing)?.map_err(ResolveError::System)?;
        Ok(self.resolver.insert(made).clone())
    }

    /// Has the system's settings read again the next time: they may be why something failed.
    pub(super) fn renew(&mut self) {
        self.resolver = None;
    }
}

fn system_resolver() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    set(builder.options_mut());
    builder.build()
}

fn set(options: &mut ResolverOpts) {
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = options.timeout.min(SERVER_TIMEOUT);
}

/// The addresses of a place, at least one, in order.
pub(super) async fn addresses(
    resolver: &TokioResolver,
    place: &Place,
) -> Result<BTreeSet<SocketAddr>, ResolveError> {
    let addresses = match place {
        Place::Address(address) => [*address].into(),
        Place::Host { name, port } => {
            let found = resolver.lookup_ip(name.as_str()).await.map_err(ResolveError::Dns)?;
            found.iter().map(|ip| SocketAddr::new(ip, *port)).collect()
        }
        Place::Service { name } => addresses_of_service(resolver, name).await?,
    };
    if addresses.is_empty() { Err(ResolveError::Nothing) } else { Ok(addresses) }
}

/// Those of all hosts of a service that have some.
async fn addresses_of_service(
    resolver: &TokioResolver,
    name: &str,
) -> Result<BTreeSet<SocketAddr>, ResolveError> {
    let records = resolver.lookup(name, RecordType::SRV).await.map_err(ResolveError::Dns)?;
    let hosts: HashSet<(Name, u16)> = records
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(host) if !host.target.is_root() => Some((host.target.clone(), host.port)),
            _ => None,
        })
        .take(HOSTS_MOST)
        .collect();
    let lookups = stream::iter(hosts).map(async |(host, port)| {
        let found = resolver.lookup_ip(host).await;
        found.map(|found| found.iter().map(|ip| SocketAddr::new(ip, port)).collect::<Vec<_>>())
    });
    let mut lookups = lookups.buffer_unordered(AT_ONCE);
    let (mut addresses, mut failure) = (BTreeSet::new(), None);
    while let Some(found) = lookups.next().await {
        match found {
            Ok(found) => addresses.extend(found),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if addresses.is_empty() => Err(ResolveError::Dns(error)),
        Some(_) | None => Ok(addresses),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        collections::HashMap,
        net::{IpAddr, Ipv4Addr},
        sync::{
            Mutex,
            atomic::{AtomicBool, Ordering},
        },
    };

    use hickory_resolver::{
        config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
        net::runtime::TokioRuntimeProvider,
        proto::{
            op::{Message, OpCode, ResponseCode},
            rr::{
                Record,
                rdata::{A, AAAA, SRV},
            },
        },
    };
    use tokio::{net::UdpSocket, sync::watch};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    /// A DNS server on this machine, which says what it is told to.
    pub(in super::super) struct Dns {
        port: u16,
        zone: Arc<Zone>,
        _task: AbortOnDropHandle<()>,
    }

    #[derive(Default)]
    struct Zone {
        records: Mutex<HashMap<(String, RecordType), Vec<RData>>>,
        is_silent: AtomicBool,
        asked: watch::Sender<u64>,
    }

    impl Dns {
        pub(in super::super) async fn start() -> Self {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let port = socket.local_addr().unwrap().port();
            let zone = Arc::new(Zone::default());
            let serving = serve(socket, Arc::clone(&zone));
            Self { port, zone, _task: AbortOnDropHandle::new(tokio::spawn(serving)) }
        }

        /// Sets the addresses of a host.
        pub(in super::super) fn set_host(&self, name: &str, addresses: &[&str]) {
            let addresses = || addresses.iter().map(|text| text.parse().unwrap());
            let four = addresses().filter_map(|ip| match ip {
                IpAddr::V4(ip) => Some(RData::A(A(ip))),
                IpAddr::V6(_) => None,
            });
            let six = addresses().filter_map(|ip| match ip {
                IpAddr::V4(_) => None,
                IpAddr::V6(ip) => Some(RData::AAAA(AAAA(ip))),
            });
            let mut records = self.zone.records.lock().unwrap();
            records.insert((name.to_owned(), RecordType::A), four.collect());
            records.insert((name.to_owned(), RecordType::AAAA), six.collect());
        }

        /// Sets the hosts of a service.
        pub(in super::super) fn set_service(&self, name: &str, hosts: &[(&str, u16)]) {
            let record = |(host, port): &(&str, u16)| {
                RData::SRV(SRV::new(0, 0, *port, host.parse().unwrap()))
            };
            let hosts = hosts.iter().map(record).collect();
            self.zone.records.lock().unwrap().insert((name.to_owned(), RecordType::SRV), hosts);
        }

        pub(in super::super) fn set_silent(&self, is_silent: bool) {
            self.zone.is_silent.store(is_silent, Ordering::SeqCst);
        }

        /// Waits until it was asked a few times from now on.
        pub(in super::super) async fn has_been_asked(&self) {
            let mut asked = self.zone.asked.subscribe();
            let until = *asked.borrow_and_update() + 4;
            let is_so = asked.wait_for(|asked| *asked >= until);
            tokio::time::timeout(Duration::from_secs(30), is_so)
                .await
                .expect("it is asked")
                .unwrap();
        }

        pub(in super::super) fn resolve(&self) -> Resolve {
            let mut connection = ConnectionConfig::udp();
            connection.port = self.port;
            let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            Resolve::with(Arc::new(move || {
                let provider = TokioRuntimeProvider::default();
                let mut builder = TokioResolver::builder_with_config(config.clone(), provider);
                set(builder.options_mut());
                let options = builder.options_mut();
                options.use_hosts_file = ResolveHosts::Never;
                (options.timeout, options.attempts) = (Duration::from_millis(200), 1);
                builder.build()
            }))
        }
    }

    async fn serve(socket: UdpSocket, zone: Arc<Zone>) {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            zone.asked.send_modify(|asked| *asked += 1);
            if zone.is_silent.load(Ordering::SeqCst) {
                continue;
            }
            let query = question.queries[0].clone();
            let name = query.name().to_ascii().to_lowercase();
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            {
                let records = zone.records.lock().unwrap();
                let record =
                    |data: &RData| Record::from_rdata(query.name().clone(), 3600, data.clone());
                match records.get(&(name, query.query_type())) {
                    Some(found) => drop(answer.add_answers(found.iter().map(record))),
                    None => answer.metadata.response_code = ResponseCode::NXDomain,
                }
            }
            answer.add_query(query);
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    }

    async fn look(dns: &Dns, place: &Place) -> Result<Vec<String>, ResolveError> {
        let resolver = dns.resolve().resolver().await?;
        let found = addresses(&resolver, place).await?;
        Ok(found.iter().map(SocketAddr::to_string).collect())
    }

    #[tokio::test]
    async fn a_host_has_addresses_of_both_kinds() {
        let dns = Dns::start().await;
        dns.set_host("pond.test.", &["10.0.0.2", "10.0.0.1", "fd00::1"]);
        let place = Place::Host { name: "pond.test".to_owned(), port: 7 };
        let expected = ["10.0.0.1:7", "10.0.0.2:7", "[fd00::1]:7"];
        assert_eq!(look(&dns, &place).await.unwrap(), expected);
        dns.set_host("pond.test.", &["fd00::2"]);
        assert_eq!(look(&dns, &place).await.unwrap(), ["[fd00::2]:7"]);
    }

    #[tokio::test]
    async fn a_service_has_the_addresses_of_its_hosts_at_their_ports() {
        let dns = Dns::start().await;
        let name = "_peer._tcp.pond.test";
        let hosts = [("a.pond.test.", 1), ("b.pond.test.", 2), ("gone.pond.test.", 3)];
        dns.set_service("_peer._tcp.pond.test.", &hosts);
        dns.set_host("a.pond.test.", &["10.0.0.1"]);
        dns.set_host("b.pond.test.", &["10.0.0.2", "10.0.0.3"]);
        let place = Place::Service { name: name.to_owned() };
        let expected = ["10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:2"];
        assert_eq!(look(&dns, &place).await.unwrap(), expected);
        dns.set_service("_peer._tcp.pond.test.", &hosts[2..]);
        assert!(matches!(look(&dns, &place).await, Err(ResolveError::Dns(_))));
    }

    #[tokio::test]
    async fn what_dns_does_not_know_is_an_error() {
        let dns = Dns::start().await;
        let place = Place::Host { name: "pond.test".to_owned(), port: 7 };
        assert!(matches!(look(&dns, &place).await, Err(ResolveError::Dns(_))));
        dns.set_silent(true);
        assert!(matches!(look(&dns, &place).await, Err(ResolveError::Dns(_))));
    }
}
