//! RPCs that this version does not have: each answers UNIMPLEMENTED and says its name, so that a client's log does.
//! The macros write what `async_trait` makes of an `async fn`, which does not look into macros.

macro_rules! unimplemented_verbs {
    ($($rpc:ident: $name:ident($request:ty) -> $response:ty;)*) => {$(
        fn $name<'life, 'future>(
            &'life self,
            _: tonic::Request<$request>,
        ) -> std::pin::Pin<Box<dyn Future<Output = Result<tonic::Response<$response>, tonic::Status>> + Send + 'future>>
        where
            'life: 'future,
            Self: 'future,
        {
            Box::pin(std::future::ready(Err($crate::cri::status::unimplemented(stringify!($rpc)))))
        }
    )*};
}

pub(super) use unimplemented_verbs;
