// Package rabbitmq is the broker for RabbitMQ.
package rabbitmq
