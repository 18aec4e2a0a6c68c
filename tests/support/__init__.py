"""What tests share: real steps, real users, fakes and builders of documents."""
