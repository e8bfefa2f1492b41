//! Settings of the cluster.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    Weight,
    name::{Place, PlaceOfDns, PlaceWithPort},
};
use crate::runtime::{Secret, Section};

const WEIGHT: usize = 1;
const WEIGHT_MOST: usize = 100;
const WARM_UP: Duration = Duration::from_secs(30);
const WARM_UP_MOST: Duration = Duration::from_hours(1);
const UPLOADS: usize = 8;
const UPLOADS_MOST: usize = 1024;

/// A shorter secret could be guessed.
const SECRET_BYTES_LEAST: usize = 16;

/// What stands for a secret where a configuration is shown, which has to be one itself.
const HIDDEN: &str = "(hidden)";

/// Places that may be listed: more than nodes that make sense in one cluster.
const PLACES_MOST: usize = 1024;

/// Settings of the cluster, section `cluster`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address and port where other nodes reach this one. Without it there is no cluster, and nothing below may be
    /// given. Default: none.
    pub listen: Option<SocketAddr>,
    /// Address and port that other nodes are told. Default: `listen`. `None` only without a cluster.
    pub advertise: Option<SocketAddr>,
    /// How other nodes are found. Must be given in one of its forms.
    pub discovery: Discovery,
    /// How much of everything this node owns, compared with others, from 0 to 100. Default: 1. With 0 it keeps and
    /// serves what it has read, and owns nothing.
    pub weight: Weight,
    /// How long a node that starts owns nothing while others do. Default: 30 s.
    pub warm_up: Duration,
    /// How nodes know each other for what they are.
    pub trust: Trust,
    /// Parts that are sent to other nodes at once, while there are more who want some, from 1 to 1024. Default: 8.
    pub uploads: usize,
}

/// How other nodes are found: one of `members`, `dns` or `gossip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// They are all listed; this node may be among them.
    Members(Vec<Place>),
    /// All addresses that a name has, now and later, are nodes.
    Dns(Place),
    /// Nodes tell each other whom they know.
    Gossip(GossipConfig),
}

/// Settings of gossip, section `cluster.gossip`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipConfig {
    /// Address and port of its datagrams (UDP). Must be given.
    pub listen: SocketAddr,
    /// Address and port of its datagrams that others are told. Default: `listen`.
    pub advertise: SocketAddr,
    /// Where some of the others are, by their `advertise`. At least one; all nodes may have the same list.
    pub seeds: Vec<Place>,
    /// Every datagram is signed with it: `cluster.secret`.
    pub secret: Secret,
}

/// How nodes know each other for what they are: `secret` or `tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// They are all on this machine, and so is whoever can connect.
    #[default]
    ThisMachine,
    /// They know a secret of at least 16 bytes.
    Secret(Secret),
    /// They have certificates of the cluster's own authority, as clients and as servers.
    Tls(TlsFiles),
}

/// Certificates of this node, section `cluster.tls`: PEM files, each of which must be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority that has signed the certificates of all nodes.
    pub ca_file: PathBuf,
    /// This node's certificate, for connections from it and to it.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// What is read before it is known how it fits together.
struct Given {
    /// Which of `members`, `dns` and `gossip` were given, be they right or not.
    ways: Vec<&'static str>,
    members: Option<Vec<PlaceWithPort>>,
    dns: Option<PlaceOfDns>,
    gossip: Option<GossipConfig>,
    secret: Option<Secret>,
    tls: Option<TlsFiles>,
    weight: Option<usize>,
    warm_up: Option<Duration>,
    uploads: Option<usize>,
}

impl Config {
    /// No cluster.
    #[must_use]
    pub fn none() -> Self {
        Self {
            listen: None,
            advertise: None,
            discovery: Discovery::Members(Vec::new()),
            weight: WEIGHT as Weight,
            warm_up: WARM_UP,
            trust: Trust::ThisMachine,
            uploads: UPLOADS,
        }
    }

    /// Reads the section, reporting what is wrong with it.
    pub fn read(section: &mut Section<'_>) -> Self {
        let is_wanted = section.has("listen");
        let listen = section.optional::<SocketAddr>("listen");
        let advertise = section.optional::<SocketAddr>("advertise");
        let given = Given::read(section);
        let Some(listen) = listen else {
            if !is_wanted {
                given.refuse(section, advertise);
            }
            return Self::none();
        };
        let advertise = told_address(section, listen, advertise);
        let discovery = given.discovery(section);
        let trust = given.trust(section, listen);
        Self {
            listen: Some(listen),
            advertise: Some(advertise),
            discovery,
            weight: given.weight.unwrap_or(WEIGHT) as Weight,
            warm_up: given.warm_up.unwrap_or(WARM_UP),
            trust,
            uploads: given.uploads.unwrap_or(UPLOADS),
        }
    }
}

impl Given {
    fn read(section: &mut Section<'_>) -> Self {
        let ways = ["members", "dns", "gossip"];
        let ways = ways.into_iter().filter(|way| section.has(way)).collect();
        let members = section.optional_list("members");
        let dns = section.optional("dns");
        let secret = read_secret(section);
        let gossip = section
            .optional_section("gossip")
            .map(|mut gossip| GossipConfig::read(&mut gossip, secret.clone()));
        let weight = section.optional_within("weight", 0..=WEIGHT_MOST);
        let warm_up = section.optional_within("warm_up", Duration::ZERO..=WARM_UP_MOST);
        let tls = section.optional_section("tls").map(|mut tls| read_tls(&mut tls));
        let uploads = section.optional_within("uploads", 1..=UPLOADS_MOST);
        Self { ways, members, dns, gossip, secret, tls, weight, warm_up, uploads }
    }

    /// Reports what was given for a cluster that there is not.
    fn refuse(&self, section: &Section<'_>, advertise: Option<SocketAddr>) {
        let given = [
            ("advertise", advertise.is_some()),
            ("members", self.members.is_some()),
            ("dns", self.dns.is_some()),
            ("gossip", self.gossip.is_some()),
            ("weight", self.weight.is_some()),
            ("warm_up", self.warm_up.is_some()),
            ("secret", self.secret.is_some()),
            ("tls", self.tls.is_some()),
            ("uploads", self.uploads.is_some()),
        ];
        for (key, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
            let message = "without cluster.listen there is no cluster; give both, or neither";
            section.problem(key, None, message);
        }
    }

    fn discovery(&self, section: &Section<'_>) -> Discovery {
        match self.ways[..] {
            [] => {
                let message =
                    "how other nodes are found must be given: one of members, dns or gossip";
                section.problem("members", None, message);
            }
            [_] => {}
            [_, .., last] => {
                let all = self.ways.join(" and ");
                let message = format!("give one of members, dns or gossip, not {all}");
                section.problem(last, None, message);
            }
        }
        if let Some(members) = &self.members {
            let places: Vec<Place> = members.iter().map(|place| place.0.clone()).collect();
            check_count(section, "members", places.len());
            return Discovery::Members(places);
        }
        if let Some(PlaceOfDns(place)) = &self.dns {
            return Discovery::Dns(place.clone());
        }
        if let Some(gossip) = &self.gossip {
            if self.secret.is_none() {
                let message = "gossip signs its datagrams; give cluster.secret too";
                section.problem("gossip", None, message);
            }
            return Discovery::Gossip(gossip.clone());
        }
        Discovery::Members(Vec::new())
    }

    fn trust(&self, section: &Section<'_>, listen: SocketAddr) -> Trust {
        match (&self.secret, &self.tls) {
            (secret, Some(tls)) => {
                if secret.is_some() && self.gossip.is_none() {
                    let message = "give either secret or tls; both are for gossip only, which signs its \
                                   datagrams with the secret";
                    section.problem("tls", None, message);
                }
                Trust::Tls(tls.clone())
            }
            (Some(secret), None) => Trust::Secret(secret.clone()),
            (None, None) => {
                if !listen.ip().is_loopback() {
                    let message = "other machines can reach cluster.listen; give a secret of the cluster, \
                                   or tls";
                    section.problem("secret", None, message);
                }
                Trust::ThisMachine
            }
        }
    }
}

impl GossipConfig {
    fn read(section: &mut Section<'_>, secret: Option<Secret>) -> Self {
        let listen = section.optional("listen").unwrap_or_else(|| {
            let message = "the address and port of gossip's datagrams are expected";
            section.problem("listen", None, message);
            SocketAddr::from(([127, 0, 0, 1], 1))
        });
        let advertise = section.optional("advertise");
        let seeds: Vec<PlaceWithPort> = section.optional_list("seeds").unwrap_or_default();
        check_count(section, "seeds", seeds.len());
        Self {
            listen,
            advertise: told_address(section, listen, advertise),
            seeds: seeds.into_iter().map(|place| place.0).collect(),
            secret: secret.unwrap_or_else(|| Secret::new(String::new())),
        }
    }
}

/// What others are told of an address where this node listens.
fn told_address(
    section: &Section<'_>,
    listen: SocketAddr,
    advertise: Option<SocketAddr>,
) -> SocketAddr {
    let is_good = |address: SocketAddr| !address.ip().is_unspecified() && address.port() != 0;
    match advertise {
        Some(advertise) if !is_good(advertise) => {
            let message = "an address and a port by which other nodes reach this one are expected";
            section.problem("advertise", Some(advertise.to_string()), message);
        }
        None if !is_good(listen) => {
            let message = format!(
                "listen is {listen}, which says not where other nodes reach this one; that address and port \
                 are expected here"
            );
            section.problem("advertise", None, message);
        }
        Some(_) | None => {}
    }
    advertise.unwrap_or(listen)
}

fn check_count(section: &Section<'_>, key: &str, count: usize) {
    if !(1..=PLACES_MOST).contains(&count) {
        let message = format!("from 1 to {PLACES_MOST} places are expected, not {count}");
        section.problem(key, None, message);
    }
}

fn read_secret(section: &mut Section<'_>) -> Option<Secret> {
    let secret = section.secret("secret", "secret_file")?;
    let length = secret.expose().len();
    if length < SECRET_BYTES_LEAST && secret.expose() != HIDDEN {
        let message = format!(
            "at least {SECRET_BYTES_LEAST} bytes are expected, not {length}; openssl rand -base64 32 makes a \
             good one"
        );
        section.problem("secret", None, message);
    }
    Some(secret)
}

fn read_tls(section: &mut Section<'_>) -> TlsFiles {
    let [ca_file, cert_file, key_file] = ["ca_file", "cert_file", "key_file"].map(|name| {
        section.optional::<PathBuf>(name).unwrap_or_else(|| {
            section.problem(name, None, "give the paths of ca_file, cert_file and key_file");
            PathBuf::new()
        })
    });
    TlsFiles { ca_file, cert_file, key_file }
}

#[cfg(test)]
mod tests {
    use std::{io, path::Path};

    use super::*;
    use crate::runtime::{Environment, Settings};

    const SECRET: &str = "sixteen bytes ok";

    struct Nothing;

    impl Environment for Nothing {
        fn variables(&self) -> Vec<(String, String)> {
            Vec::new()
        }

        fn read_file(&self, _path: &Path) -> io::Result<String> {
            Ok(format!("{SECRET}\n"))
        }
    }

    /// What a section says, as it is shown, or what is wrong with it.
    fn read(text: &str) -> Result<(Config, String), Vec<String>> {
        let text = format!("cluster: {text}");
        let settings = Settings::new("m.yml", &text, &Nothing);
        let config = Config::read(&mut settings.root().section("cluster"));
        let told = |problem: &crate::runtime::Problem| problem.to_string();
        let shown = settings.finish();
        shown.map(|shown| (config, shown)).map_err(|e| e.problems.iter().map(told).collect())
    }

    fn good(text: &str) -> Config {
        read(text).unwrap_or_else(|problems| panic!("{text}: {problems:?}")).0
    }

    #[test]
    fn without_an_address_there_is_no_cluster() {
        let (config, shown) = read("{}").unwrap();
        assert_eq!((config.listen, config.advertise, shown.as_str()), (None, None, ""));
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let config = good("{listen: '127.0.0.1:5003', members: '10.0.0.7:5003'}");
        assert_eq!(config.advertise, config.listen);
        assert_eq!((config.weight, config.warm_up, config.uploads), (1, WARM_UP, 8));
        assert_eq!(config.trust, Trust::ThisMachine);
        let place = Place::Address("10.0.0.7:5003".parse().unwrap());
        assert_eq!(config.discovery, Discovery::Members(vec![place]));
    }

    #[test]
    fn gossip_may_have_a_secret_beside_certificates() {
        let config = good(
            "{listen: '0.0.0.0:5003', advertise: '10.0.0.7:5003', secret_file: /f, \
             tls: {ca_file: a, cert_file: b, key_file: c}, \
             gossip: {listen: '10.0.0.7:5004', seeds: ['pond:5004']}}",
        );
        assert!(matches!(config.trust, Trust::Tls(_)));
        let Discovery::Gossip(gossip) = config.discovery else { panic!("{config:?}") };
        assert_eq!((gossip.advertise, gossip.secret.expose()), (gossip.listen, SECRET));
    }

    #[test]
    fn the_secret_is_hidden() {
        let text = format!("{{listen: '10.0.0.7:5003', members: 'a:1', secret: {SECRET}}}");
        let (config, shown) = read(&text).unwrap();
        assert_eq!(config.trust, Trust::Secret(Secret::new(SECRET.to_owned())));
        assert!(!shown.contains(SECRET) && !format!("{config:?}").contains(SECRET), "{shown}");
    }

    /// Expects one problem of each text.
    fn refused(cases: &[(String, &str)]) {
        for (text, expected) in cases {
            let problems = read(&format!("{{{text}}}")).expect_err(text);
            assert_eq!(problems, [format!("m.yml: cluster.{expected}")], "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_value_is_said() {
        let here = "listen: '127.0.0.1:5003'";
        let cases = [
            (
                "weight: 2".to_owned(),
                "weight: without cluster.listen there is no cluster; give both, or neither",
            ),
            (
                "listen: pond, members: 'a:1'".to_owned(),
                "listen = \"pond\": an address and a port such as 127.0.0.1:5000 or [::]:5000 is expected",
            ),
            (
                here.to_owned(),
                "members: how other nodes are found must be given: one of members, dns or gossip",
            ),
            (
                format!("{here}, members: 'a:1', dns: 'a:1'"),
                "dns: give one of members, dns or gossip, not members and dns",
            ),
            (format!("{here}, members: []"), "members: from 1 to 1024 places are expected, not 0"),
            (
                format!("{here}, members: ['a:1', pond]"),
                "members = \"pond\": an address or a host with a port, such as 10.0.0.7:5003 or \
                 node-1.example:5003 is expected",
            ),
            (
                format!("{here}, dns: pond"),
                "dns = \"pond\": a name with a port, such as millpond.example:5003, or the name of a \
                 service such as _peer._tcp.millpond.example is expected",
            ),
            (
                format!("{here}, members: 'a:1', weight: 101"),
                "weight = \"101\": from 0 to 100 is expected",
            ),
            (
                format!("{here}, members: 'a:1', uploads: 0"),
                "uploads = \"0\": from 1 to 1024 is expected",
            ),
            (
                format!("{here}, members: 'a:1', warm_up: 2h"),
                "warm_up = \"2h\": from 0s to 1h is expected",
            ),
        ];
        refused(&cases);
    }

    #[test]
    fn a_cluster_without_trust_or_an_address_is_refused() {
        let here = "listen: '127.0.0.1:5003'";
        let cases = [
            (
                "listen: '10.0.0.7:5003', members: 'a:1'".to_owned(),
                "secret: other machines can reach cluster.listen; give a secret of the cluster, or tls",
            ),
            (
                format!("{here}, members: 'a:1', secret: too short"),
                "secret: at least 16 bytes are expected, not 9; openssl rand -base64 32 makes a good one",
            ),
            (
                format!(
                    "{here}, members: 'a:1', secret: {SECRET}, \
                     tls: {{ca_file: a, cert_file: b, key_file: c}}"
                ),
                "tls: give either secret or tls; both are for gossip only, which signs its datagrams with \
                 the secret",
            ),
            (
                format!("{here}, members: 'a:1', tls: {{ca_file: a, cert_file: b}}"),
                "tls.key_file: give the paths of ca_file, cert_file and key_file",
            ),
            (
                format!("listen: '0.0.0.0:5003', secret: {SECRET}, members: 'a:1'"),
                "advertise: listen is 0.0.0.0:5003, which says not where other nodes reach this one; that \
                 address and port are expected here",
            ),
            (
                format!("{here}, advertise: '[::]:5003', members: 'a:1'"),
                "advertise = \"[::]:5003\": an address and a port by which other nodes reach this one are \
                 expected",
            ),
            (
                format!("{here}, gossip: {{listen: '127.0.0.1:5004', seeds: 'a:1'}}"),
                "gossip: gossip signs its datagrams; give cluster.secret too",
            ),
            (
                format!("{here}, secret: {SECRET}, gossip: {{seeds: 'a:1'}}"),
                "gossip.listen: the address and port of gossip's datagrams are expected",
            ),
            (
                format!("{here}, secret: {SECRET}, gossip: {{listen: '127.0.0.1:5004'}}"),
                "gossip.seeds: from 1 to 1024 places are expected, not 0",
            ),
        ];
        refused(&cases);
    }
}
