//! Whole sets of content, each pushed, listed, pulled, referred to and deleted: the sets of the
//! specification's own conformance program, in its order of requests.

mod journey;
mod sets;

use crate::{
    content::Hash,
    node::{Backend, TestNode},
};

on_both_backends! {
    an_image,
    an_image_without_compression,
    an_image_with_a_large_manifest,
    an_index,
    an_index_of_indexes,
    an_index_of_nothing,
    an_artifact,
    an_index_of_artifacts,
    an_artifact_without_layers,
    artifacts_with_a_subject,
    an_index_with_a_subject,
    an_artifact_whose_subject_is_missing,
    an_image_with_data_in_its_descriptors,
    an_image_with_foreign_layers,
    manifests_with_fields_of_their_own,
    an_image_without_layers,
    manifests_with_missing_parts,
    an_index_by_sha512,
    an_index_tagged_by_parameters,
    an_index_by_sha512_tagged_by_parameters,
    everything_in_one_repository,
}

async fn travel(backend: Backend, set: sets::DataSet) {
    let node = TestNode::start(backend, "").await;
    journey::travel(&node, &set).await;
}

async fn an_image(backend: Backend) {
    travel(backend, sets::image()).await;
}

async fn an_image_without_compression(backend: Backend) {
    travel(backend, sets::uncompressed()).await;
}

async fn an_image_with_a_large_manifest(backend: Backend) {
    travel(backend, sets::large_manifest()).await;
}

async fn an_index(backend: Backend) {
    travel(backend, sets::index(Hash::Sha256)).await;
}

async fn an_index_of_indexes(backend: Backend) {
    travel(backend, sets::nested_index()).await;
}

async fn an_index_of_nothing(backend: Backend) {
    travel(backend, sets::empty_index()).await;
}

async fn an_artifact(backend: Backend) {
    travel(backend, sets::artifact()).await;
}

async fn an_index_of_artifacts(backend: Backend) {
    travel(backend, sets::artifact_index()).await;
}

async fn an_artifact_without_layers(backend: Backend) {
    travel(backend, sets::artifact_without_layers()).await;
}

async fn artifacts_with_a_subject(backend: Backend) {
    travel(backend, sets::artifacts_with_subject()).await;
}

async fn an_index_with_a_subject(backend: Backend) {
    travel(backend, sets::index_with_subject()).await;
}

async fn an_artifact_whose_subject_is_missing(backend: Backend) {
    travel(backend, sets::missing_subject()).await;
}

async fn an_image_with_data_in_its_descriptors(backend: Backend) {
    travel(backend, sets::data_field()).await;
}

async fn an_image_with_foreign_layers(backend: Backend) {
    travel(backend, sets::foreign_layers()).await;
}

async fn manifests_with_fields_of_their_own(backend: Backend) {
    travel(backend, sets::custom_fields()).await;
}

async fn an_image_without_layers(backend: Backend) {
    travel(backend, sets::no_layers()).await;
}

async fn manifests_with_missing_parts(backend: Backend) {
    let node = TestNode::start(backend, "registry: {references: sparse}").await;
    journey::travel(&node, &sets::sparse()).await;
}

async fn an_index_by_sha512(backend: Backend) {
    travel(backend, sets::index(Hash::Sha512)).await;
}

async fn an_index_tagged_by_parameters(backend: Backend) {
    travel(backend, sets::tagged_by_parameters(Hash::Sha256)).await;
}

async fn an_index_by_sha512_tagged_by_parameters(backend: Backend) {
    travel(backend, sets::tagged_by_parameters(Hash::Sha512)).await;
}

/// As one run has it: sets share blobs and manifests, and deleting one must not harm the next.
async fn everything_in_one_repository(backend: Backend) {
    let node = TestNode::start(backend, "registry: {references: sparse}").await;
    for set in sets::all() {
        journey::travel(&node, &set).await;
    }
}
