//! From a request to its handler, and back with what every answer carries.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{
    Api, access_log::AccessRecord, blob, body::Body, error::Error, listener::Service, manifest,
    referrers, request::Call, route::Route, tags, upload,
};

/// Header by which docker clients know a version 2 registry.
static API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// Header that says which registry was answered for (distribution-spec, "Registry Proxying").
static NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// What a handler makes of a request.
pub(super) type Answer = Result<Response<Body>, Error>;

/// The API as one listener serves it.
#[derive(Debug)]
pub struct Face {
    api: Arc<Api>,
    /// The other registry that every name means here.
    namespace: Option<String>,
}

impl Face {
    /// Names mean hosted repositories, or mirrored ones by their first component.
    #[must_use]
    pub fn of(api: Arc<Api>) -> Arc<Self> {
        Arc::new(Self { api, namespace: None })
    }

    /// The other registry that every name means here, if there is one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Every name is one of the other registry `namespace`, as docker daemons expect of a mirror.
    #[must_use]
    pub fn mirroring(api: Arc<Api>, namespace: String) -> Arc<Self> {
        Arc::new(Self { api, namespace: Some(namespace) })
    }
}

impl Service for Face {
    /// Answers one request to the registry.
    async fn call(self: Arc<Self>, peer: SocketAddr, request: Request<Incoming>) -> Response<Body> {
        let api = &self.api;
        let mut record = AccessRecord::begin(peer, &request);
        let in_flight = api.metrics.begin();
        let answer = match Route::parse(request.uri().path()) {
            Ok(route) => {
                record.routed(route.name());
                let call = Call::new(api, (peer, self.namespace.as_deref()), request);
                let asked =
                    call.parameter("ns").and_then(|asked| HeaderValue::from_str(asked).ok());
                let mut answer = api.dispatch(route, call).await;
                if let (Ok(response), Some(asked)) = (&mut answer, asked) {
                    response.headers_mut().insert(&NAMESPACE, asked);
                }
                answer
            }
            // Load balancers like to ask this, and docker-registry answers it so.
            Err(_) if request.uri().path() == "/" && request.method() == Method::GET => {
                Ok(Response::new(Body::empty()))
            }
            Err(error) => Err(error.into()),
        };
        let mut response = answer.unwrap_or_else(Error::into_response);
        let headers = response.headers_mut();
        headers.insert(&API_VERSION, HeaderValue::from_static("registry/2.0"));
        for (name, value) in &api.config.headers {
            headers.insert(name, value.clone());
        }
        record.answered(response.status(), in_flight);
        response.body_mut().log_at_end(record);
        response
    }
}

impl Api {
    async fn dispatch(&self, route: Route, call: Call) -> Answer {
        let method = call.method.clone();
        let allowed = route.allowed();
        // Every request needs as much memory as the largest of these that has no box of its own, and hyper copies all of
        // it when the request begins. So all have one but the smallest.
        match (route, method) {
            (Route::Ping, Method::GET | Method::HEAD) => Ok(ping()),
            (Route::Catalog, Method::GET | Method::HEAD) => {
                Box::pin(tags::catalog(self, &call)).await
            }
            (Route::Tags(name), Method::GET | Method::HEAD) => {
                Box::pin(tags::list(self, name, &call)).await
            }
            (Route::Manifest(name, reference), Method::GET | Method::HEAD) => {
                manifest::get(self, name, (&reference, &call)).await
            }
            (Route::Manifest(name, reference), Method::PUT) => {
                Box::pin(manifest::put(self, name, reference, call)).await
            }
            (Route::Manifest(name, reference), Method::DELETE) => {
                Box::pin(manifest::delete(self, name, (reference, &call))).await
            }
            (Route::Blob(name, digest), Method::GET) => {
                Box::pin(blob::get(self, name, (&digest, &call))).await
            }
            (Route::Blob(name, digest), Method::HEAD) => {
                Box::pin(blob::head(self, name, (&digest, &call))).await
            }
            (Route::Blob(name, digest), Method::DELETE) => {
                Box::pin(blob::delete(self, name, (digest, &call))).await
            }
            (Route::Uploads(name), Method::POST) => Box::pin(upload::begin(self, name, call)).await,
            (Route::Upload(name, position), Method::GET | Method::HEAD) => {
                Box::pin(upload::status(self, name, (position, &call))).await
            }
            (Route::Upload(name, position), Method::PATCH) => {
                Box::pin(upload::append(self, name, position, call)).await
            }
            (Route::Upload(name, position), Method::PUT) => {
                Box::pin(upload::finish(self, name, position, call)).await
            }
            (Route::Upload(name, position), Method::DELETE) => {
                Box::pin(upload::cancel(self, name, (position, &call))).await
            }
            (Route::Referrers(name, digest), Method::GET | Method::HEAD) => {
                Box::pin(referrers::list(self, name, (&digest, &call))).await
            }
            _ => Err(Error::Method { allowed }),
        }
    }
}

fn ping() -> Response<Body> {
    json_response("{}".to_owned(), "application/json")
}

/// An answer with a JSON body.
pub(super) fn json_response(json: String, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(json));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// An answer with a status and no body.
pub(super) fn empty_response(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
