-- Run once, when the volume is new: POSTGRES_DB makes the first database, this the second.
create database mlflow_users;
