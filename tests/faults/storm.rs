//! Clients that pull the same at the same time.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use reqwest::Client;
use tokio::task::JoinSet;

use crate::{
    cluster::{Cluster, PATIENCE},
    content::Blob,
    network::Number,
};

/// How a pull has ended. That wrong bytes came is none of these: the test fails at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All bytes have come.
    Right,
    /// It was refused, or has broken off.
    Failed(String),
}

/// Pulls that are under way.
pub(crate) struct Storm(JoinSet<(Number, usize, Outcome)>);

/// How the pulls of a storm have ended: of each node, for each blob.
#[derive(Debug)]
pub(crate) struct Outcomes(BTreeMap<(Number, usize), Outcome>);

impl Cluster {
    /// Begins to pull all these blobs through each of these nodes.
    pub(crate) fn storm(&self, nodes: &[Number], blobs: &[Blob]) -> Storm {
        let mut pulls = JoinSet::new();
        for node in nodes {
            for (number, blob) in blobs.iter().enumerate() {
                let (node, client, blob) = (*node, self.http.clone(), blob.clone());
                let url = self.url(node, &blob.path());
                pulls.spawn(async move { (node, number, pull(&client, &url, &blob).await) });
            }
        }
        Storm(pulls)
    }

    /// Pulls all these blobs through each of these nodes, and panics unless all bytes come.
    pub(crate) async fn pull(&self, nodes: &[Number], blobs: &[Blob]) {
        self.storm(nodes, blobs).outcomes().await.expect_right(nodes);
    }
}

impl Storm {
    /// Waits for the end of all.
    pub(crate) async fn outcomes(self) -> Outcomes {
        let Self(mut pulls) = self;
        let mut outcomes = BTreeMap::new();
        let all = async {
            while let Some(ended) = pulls.join_next().await {
                let (node, blob, outcome) = ended.expect("no wrong byte comes");
                outcomes.insert((node, blob), outcome);
            }
        };
        let is_over = tokio::time::timeout(PATIENCE, all).await.is_ok();
        assert!(is_over, "{} pulls do not end; these have: {outcomes:?}", pulls.len());
        Outcomes(outcomes)
    }
}

impl Outcomes {
    /// Panics unless all pulls through these nodes have ended well.
    pub(crate) fn expect_right(&self, nodes: &[Number]) {
        let failed: Vec<_> = self
            .0
            .iter()
            .filter(|((node, _), outcome)| nodes.contains(node) && **outcome != Outcome::Right)
            .collect();
        assert!(failed.is_empty(), "pulls through {nodes:?} have failed: {failed:#?}");
    }

    /// How many have not ended well.
    pub(crate) fn failed(&self) -> usize {
        self.0.values().filter(|outcome| **outcome != Outcome::Right).count()
    }
}

/// Pulls a blob.
///
/// # Panics
/// If a wrong byte comes, or a clean end before the last one.
async fn pull(client: &Client, url: &str, blob: &Blob) -> Outcome {
    let answer = match client.get(url).send().await {
        Ok(answer) if answer.status() == 200 => answer,
        Ok(answer) => {
            let status = answer.status();
            return Outcome::Failed(format!("{status}: {:?}", answer.text().await));
        }
        Err(error) => return Outcome::Failed(format!("no answer: {error:?}")),
    };
    let (mut body, mut come) = (answer.bytes_stream(), 0);
    while let Some(piece) = body.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => return Outcome::Failed(format!("broken off after {come}: {error:?}")),
        };
        let expected = blob.bytes.get(come..come + piece.len());
        assert!(
            expected.is_some_and(|expected| *expected == piece[..]),
            "{url}: wrong from {come} on"
        );
        come += piece.len();
    }
    assert_eq!(come, blob.bytes.len(), "{url}: a clean end too early");
    Outcome::Right
}
