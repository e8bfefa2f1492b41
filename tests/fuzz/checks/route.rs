//! The path of a URL is a resource or is refused. What is accepted, written down again, means the same.

use millpond::api::route::Route;

pub(crate) fn check(path: &str) {
    let route = match Route::parse(path) {
        Ok(route) => route,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    assert!(!route.name().is_empty() && !route.allowed().is_empty());
    let written = written(&route);
    assert_eq!(Route::parse(&written).as_ref(), Ok(&route), "{path:?} was read as {written:?}");
    // Without an encoding there is one way to write a path, but for the slashes at the end and the count
    // in an upload's URL.
    if !path.contains('%') && !matches!(route, Route::Ping | Route::Uploads(_) | Route::Upload(..))
    {
        assert_eq!(path, written);
    }
}

/// The path of a resource, by the tables of the specification.
fn written(route: &Route) -> String {
    match route {
        Route::Ping => "/v2/".to_owned(),
        Route::Catalog => "/v2/_catalog".to_owned(),
        Route::Tags(name) => format!("/v2/{name}/tags/list"),
        Route::Manifest(name, reference) => format!("/v2/{name}/manifests/{reference}"),
        Route::Blob(name, digest) => format!("/v2/{name}/blobs/{digest}"),
        Route::Uploads(name) => format!("/v2/{name}/blobs/uploads/"),
        Route::Upload(name, position) => format!("/v2/{name}/blobs/uploads/{position}"),
        Route::Referrers(name, digest) => format!("/v2/{name}/referrers/{digest}"),
    }
}
