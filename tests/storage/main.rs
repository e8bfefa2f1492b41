//! What a storage promises, kept by every driver: plain, under injected faults, and under random
//! operations. And what S3 is asked for, request by request.

#![cfg(test)]

#[path = "../support/certificates.rs"]
mod certificates;
#[path = "../support/faulty_storage.rs"]
mod faulty_storage;
mod fixture;
mod model;
mod random;
#[path = "../support/retrying_storage.rs"]
mod retrying_storage;
mod s3_faults;
mod s3_requests;
#[path = "../support/s3_server.rs"]
mod s3_server;
mod s3_tls;
mod suite;

/// Every behaviour of the suite as a test of its own, for a fixture.
macro_rules! conformance {
    ($module:ident, $fixture:path) => {
        mod $module {
            use crate::{fixture::Fixture, suite};

            conformance! { @tests $fixture:
                objects::a_put_object_is_read_back,
                objects::a_put_replaces_what_was_there,
                objects::an_empty_object_is_an_object,
                objects::ranges_are_those_asked_for,
                objects::ranges_outside_tell_the_size,
                objects::what_is_missing_is_not_found,
                objects::an_open_object_does_not_change,
                objects::deleting_is_repeatable,
                objects::many_are_deleted_at_once,
                listing::children_come_in_the_order_of_full_keys,
                listing::pages_join_to_the_whole,
                listing::names_that_share_a_beginning_are_kept_apart,
                listing::a_listing_goes_on_after_any_text,
                listing::an_unknown_folder_is_empty,
                writing::writers_take_any_pieces,
                writing::nothing_is_visible_before_the_commit,
                writing::a_dropped_writer_leaves_what_was_there,
                writing::one_piece_is_composed,
                writing::pieces_of_all_sizes_are_composed,
                writing::a_composition_without_a_piece_leaves_nothing,
                writing::writers_of_one_key_do_not_mix,
                writing::dropped_calls_leave_the_old_or_the_new,
                writing::unfinished_writes_are_found_and_purged,
                spools::a_spool_is_read_while_it_grows,
                spools::a_spool_is_written_in_any_order,
                spools::an_adopted_spool_is_an_object_and_can_still_be_read,
                spools::a_dropped_spool_leaves_nothing,
            }
        }
    };
    (@tests $fixture:path: $($group:ident::$name:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let fixture: Fixture = $fixture().await;
                suite::$group::$name(&*fixture.storage).await;
            }
        )*
    };
}

conformance!(directory, crate::fixture::Fixture::directory);
conformance!(s3, crate::fixture::Fixture::s3);

mod faulty {
    use crate::{fixture::Fixture, suite};

    /// More operations than the longest write has, so that a repeated one comes through.
    const PERIODS: [usize; 2] = [19, 22];

    #[tokio::test]
    async fn the_directory_keeps_its_promises_when_operations_fail() {
        for period in PERIODS {
            everything(Fixture::directory().await, period).await;
        }
    }

    #[tokio::test]
    async fn s3_keeps_its_promises_when_operations_fail() {
        for period in PERIODS {
            everything(Fixture::s3().await, period).await;
        }
    }

    async fn everything(fixture: Fixture, period: usize) {
        let (fixture, faulty) = fixture.faulty(period);
        let storage = &*fixture.storage;
        suite::objects::a_put_object_is_read_back(storage).await;
        suite::objects::a_put_replaces_what_was_there(storage).await;
        suite::objects::an_empty_object_is_an_object(storage).await;
        suite::objects::ranges_are_those_asked_for(storage).await;
        suite::objects::ranges_outside_tell_the_size(storage).await;
        suite::objects::what_is_missing_is_not_found(storage).await;
        suite::objects::deleting_is_repeatable(storage).await;
        suite::objects::many_are_deleted_at_once(storage).await;
        suite::listing::children_come_in_the_order_of_full_keys(storage).await;
        suite::listing::pages_join_to_the_whole(storage).await;
        suite::listing::a_listing_goes_on_after_any_text(storage).await;
        suite::writing::writers_take_any_pieces(storage).await;
        suite::writing::one_piece_is_composed(storage).await;
        suite::writing::pieces_of_all_sizes_are_composed(storage).await;
        suite::writing::a_composition_without_a_piece_leaves_nothing(storage).await;
        suite::spools::a_spool_is_read_while_it_grows(storage).await;
        suite::spools::a_spool_is_written_in_any_order(storage).await;
        suite::spools::an_adopted_spool_is_an_object_and_can_still_be_read(storage).await;
        assert!(faulty.operations() > 10 * period, "{} operations", faulty.operations());
    }
}
